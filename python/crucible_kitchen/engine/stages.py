"""One closure a stage: gather, call, check, store, tell; with retries where wanted."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import perf_counter, sleep, time
from typing import TYPE_CHECKING, Any

from crucible_kitchen.context import Context
from crucible_kitchen.graph import StageNode
from crucible_kitchen.graph.executors import is_async

from .call import Gather, arguments, gathered, no_keywords, store, wrong_type
from .checked import watched
from .events import Event
from .executors import executor
from .runtime import BorderError, Runtime

if TYPE_CHECKING:
    from crucible_kitchen.graph import Stage

Step = Callable[[], None]

_new = tuple.__new__
"""Makes an `Event` as its class does, whose call would cost more than the rest of a step."""


def compile_stage(node: StageNode, rt: Runtime, path: str) -> Step:
    """A closure that runs one stage."""
    attempt = _class_attempt(node, rt) if node.of_class else _attempt(node, rt, path)
    if node.retry is not None:
        attempt = _retrying(attempt, node, rt)
    return _quiet(attempt, node, rt) if rt.emit is None else _loud(attempt, node, rt)


def _quiet(attempt: Step, node: StageNode, rt: Runtime) -> Step:
    name = node.name

    def step() -> None:
        if rt.cancelled:
            rt.check_cancelled()
        try:
            attempt()
        except Exception as error:
            raise rt.failure(rt.prefix + name, node.source, error) from error

    return step


def _loud(attempt: Step, node: StageNode, rt: Runtime) -> Step:
    name, emit = node.name, rt.emit
    assert emit is not None

    def step() -> None:
        if rt.cancelled:
            rt.check_cancelled()
        path = rt.prefix + name
        emit(
            _new(
                Event,
                (
                    "stage.start",
                    path,
                    time(),
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                ),
            )
        )
        began = perf_counter()
        try:
            attempt()
        except BaseException as error:
            spent = perf_counter() - began
            if not isinstance(error, Exception):
                rt.tell("stage.error", path, duration_s=spent, error=type(error).__name__)
                raise
            failure = rt.failure(path, node.source, error)
            rt.tell("stage.error", path, duration_s=spent, error=str(failure))
            raise failure from error
        spent = perf_counter() - began
        emit(
            _new(
                Event,
                (
                    "stage.stop",
                    path,
                    time(),
                    spent,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                    None,
                ),
            )
        )

    return step


def _attempt(node: StageNode, rt: Runtime, path: str) -> Step:
    """One call of a function: gather what it reads, call it, check and store what it gives."""
    gather, keywords, function = arguments(node.call, node.signature, node.bindings, rt, path)
    function = executor(node, function, rt)
    if rt.checked and node.executor != "process":  # another process has copies
        function = watched(function, node)
    if node.cache:
        from .cache import Cached  # here and not above: few workflows cache anything

        cached = Cached(node, function, rt)
        function = cached.awaited if is_async(node) else cached
    if keywords is no_keywords and not is_async(node):
        return _plain(gather, function, node, rt)
    take, keep = gathered(gather, rt), store(node, rt)
    if is_async(node):
        wait, timeout = rt.wait, node.timeout
        return lambda: keep(wait(function(*take(), **keywords()), timeout))
    return lambda: keep(function(*take(), **keywords()))


def _plain(gather: Gather, function: Callable[..., Any], node: StageNode, rt: Runtime) -> Step:
    """One call of the kind of function that most stages are; all in one closure, as calls cost."""
    values, state = rt.values, rt.state
    if len(node.writes) != 1 or node.signature.record is not None:
        take, keep = gathered(gather, rt), store(node, rt)
        return lambda: keep(function(*take()))
    (write,), (classes,) = node.writes, node.written_classes
    key = write.key

    def attempt() -> None:
        try:
            given = gather(values)
        except KeyError as error:
            raise rt.missing(error.args[0]) from None
        result = function(*given)
        if not isinstance(result, classes):
            raise wrong_type(write, result)
        state[key] = values[key] = result

    return attempt


def _class_attempt(node: StageNode, rt: Runtime) -> Step:
    """One execution of a stage written as a class."""
    stage: Stage = node.call
    options = {name: getattr(stage, name) for name in type(stage).model_fields}
    awaited = is_async(node)

    def attempt() -> None:
        for read in node.reads:
            if read.key not in rt.values:
                raise rt.missing(read.key)
        ctx = rt.context(rt.prefix + node.name, options)
        stage.validate(ctx)
        try:
            result: Any = stage.execute(ctx)
            if awaited:
                result = rt.wait(result, node.timeout)
            _adopt(node, ctx, result, rt, strict=True)
        except BaseException as error:
            _adopt(node, ctx, stage.rollback(ctx, error), rt, strict=False)
            raise

    return attempt


def _adopt(node: StageNode, before: Context, after: Any, rt: Runtime, *, strict: bool) -> None:
    """Take over what a context has more than the one it came from."""
    if not isinstance(after, Context):
        method = "execute" if strict else "rollback"
        raise BorderError(f"{method} must return a Context, got {type(after).__name__}")
    old = before.state
    changed = {k: v for k, v in after.state.items() if k not in old or v is not old[k]}
    shadowing = [key for key in changed if key in rt.config]
    if shadowing:
        raise BorderError(f"writes {shadowing[0]!r}, which is a key of the config")
    if strict and not node.opaque:
        declared = {write.key for write in node.writes}
        for key in changed:
            if key not in declared:
                raise BorderError(
                    f"writes {key!r}, which it does not declare; declared: {sorted(declared)}"
                )
        for key in declared:
            if key not in after.state:
                raise BorderError(f"declares that it writes {key!r}, but did not")
    for key, value in changed.items():
        rt.put(key, value)
    rt.base = rt.base.replace(_metadata=dict(after.metadata))


def _retrying(attempt: Step, node: StageNode, rt: Runtime) -> Step:
    retry = node.retry
    assert retry is not None

    def step() -> None:
        rt.attempts = 1
        for number in range(1, retry.attempts + 1):
            try:
                attempt()
                return
            except retry.on as error:
                rt.attempts = number
                if number == retry.attempts or isinstance(error, BorderError):
                    raise
                rt.tell(
                    "stage.retry",
                    rt.prefix + node.name,
                    attempt=number,
                    error=rt.redact(f"{type(error).__name__}: {error}"),
                )
                wait = retry.wait(number, random.random())
            sleep(wait)
            rt.check_cancelled()

    return step
