"""Turns a workflow into closures once, so that running it walks no graph."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Loop, Node, Stage, StageNode, When
from crucible_kitchen.graph.rules import is_async
from crucible_kitchen.graph.values import Value

from .call import arguments, no_keywords, store
from .events import Event
from .runtime import BorderError, Runtime

Step = Callable[[], None]


def compile_body(nodes: Iterable[Node], rt: Runtime, path: str) -> tuple[Step, ...]:
    """One closure a node.

    Args:
        nodes: of one body.
        rt: shared by all closures of the run.
        path: of the body, without indices.
    """
    steps: list[Step] = []
    for node in nodes:
        here = f"{path}/{node.name}"
        if isinstance(node, StageNode):
            steps.append(_stage(node, rt, here))
        elif isinstance(node, Loop):
            steps.append(_loop(node, rt, here))
        elif isinstance(node, When):
            steps.append(_when(node, rt, here))
    return tuple(steps)


def _stage(node: StageNode, rt: Runtime, path: str) -> Step:
    attempt = _class_attempt(node, rt) if isinstance(node.call, Stage) else _attempt(node, rt, path)
    if node.retry is not None:
        attempt = _retrying(attempt, node, rt)
    return _quiet(attempt, node, rt) if rt.emit is None else _loud(attempt, node, rt)


def _quiet(attempt: Step, node: StageNode, rt: Runtime) -> Step:
    name, source = node.name, node.source

    def step() -> None:
        if rt.cancelled:
            rt.check_cancelled()
        try:
            attempt()
        except Exception as error:
            raise rt.failure(rt.prefix + name, source, error) from error

    return step


def _loud(attempt: Step, node: StageNode, rt: Runtime) -> Step:
    name, source, emit, now = node.name, node.source, rt.emit, time.time
    assert emit is not None
    new = tuple.__new__

    def step() -> None:
        if rt.cancelled:
            rt.check_cancelled()
        path = rt.prefix + name
        # Built as a tuple: keyword arguments would cost more than the whole rest of the step.
        emit(
            new(
                Event,
                (
                    "stage.start",
                    path,
                    now(),
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
            failure = rt.failure(path, source, error)
            rt.tell("stage.error", path, duration_s=spent, error=str(failure))
            raise failure from error
        spent = perf_counter() - began
        emit(
            new(
                Event,
                (
                    "stage.stop",
                    path,
                    now(),
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
    values = rt.values
    gather, keywords, function = arguments(node.call, node.signature, dict(node.bound), rt, path)
    keep = store(node, rt)
    if is_async(node):
        call = rt.bridge.call
        timeout = node.timeout
        return lambda: keep(call(function(*gather(values), **keywords()), timeout))
    if keywords is no_keywords:
        return lambda: keep(function(*gather(values)))
    return lambda: keep(function(*gather(values), **keywords()))


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
                result = rt.bridge.call(result, node.timeout)
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
            time.sleep(wait)
            rt.check_cancelled()

    return step


def compile_value(value: Value, rt: Runtime, path: str) -> Callable[[], Any]:
    """A closure that gives what a block asks for."""
    if value.kind == "literal":
        return lambda: value.of
    values = rt.values
    if value.kind == "key":

        def look_up() -> Any:
            try:
                return values[value.of]
            except KeyError:
                raise rt.missing(value.of) from None

        return look_up
    gather, keywords, function = arguments(value.of, value.signature, {}, rt, path)
    if value.signature.is_async:
        return lambda: rt.bridge.call(function(*gather(values), **keywords()))
    return lambda: function(*gather(values), **keywords())


def _when(node: When, rt: Runtime, path: str) -> Step:
    ask = compile_value(node.predicate, rt, path)
    yes = compile_body(node.body, rt, path)
    no = compile_body(node.otherwise_body or (), rt, f"{path}/otherwise")
    name, source = node.name, node.predicate.source or node.source

    def step() -> None:
        outer = rt.prefix
        try:
            holds = bool(ask())
        except Exception as error:
            raise rt.failure(outer + name, source, error) from error
        rt.prefix = f"{outer}{name}/" if holds else f"{outer}{name}/otherwise/"
        for inner in yes if holds else no:
            inner()
        rt.prefix = outer

    return step


def _loop(node: Loop, rt: Runtime, path: str) -> Step:
    body = compile_body(node.body, rt, path)
    name = node.name
    item_key, index_key = node.variables
    state, values = rt.state, rt.values
    items = _items(node, rt, path)

    def iterate() -> None:
        outer = rt.prefix
        every = items()
        total = len(every) if hasattr(every, "__len__") else None
        rt.tell("block.start", outer + name, block="loop", total=total)
        for index, item in enumerate(every):
            rt.check_cancelled()
            here = f"{outer}{name}[{index}]"
            rt.prefix = here + "/"
            state[item_key] = values[item_key] = item
            state[index_key] = values[index_key] = index
            if rt.emit is not None:
                rt.tell("iteration.start", here, iteration=index, total=total)
            for step in body:
                step()
            rt.prefix = outer

    def step() -> None:
        where = rt.prefix + name
        began = perf_counter()
        try:
            iterate()
        except StageError as error:
            _block_failed(rt, where, began, error)
            raise
        except Exception as error:
            # The stages have turned theirs into StageErrors, so this came from the items.
            failure = rt.failure(where, node.source, error)
            _block_failed(rt, where, began, failure)
            raise failure from error
        except BaseException as error:
            _block_failed(rt, where, began, error)
            raise
        finally:
            rt.drop(item_key, index_key)
        rt.tell("block.stop", where, block="loop", duration_s=perf_counter() - began)

    return step


def _block_failed(rt: Runtime, where: str, began: float, error: BaseException) -> None:
    said = str(error) or type(error).__name__
    rt.tell("block.error", where, block="loop", duration_s=perf_counter() - began, error=said)


def _items(node: Loop, rt: Runtime, path: str) -> Callable[[], Any]:
    """What a loop goes through; for ``while_`` the numbers of its iterations."""
    if node.over is not None:
        return compile_value(node.over, rt, path)
    assert node.while_ is not None
    holds = compile_value(node.while_, rt, path)
    most = node.max_iterations

    def rounds() -> Iterable[int]:
        index = 0
        while (most is None or index < most) and holds():
            yield index
            index += 1

    return rounds
