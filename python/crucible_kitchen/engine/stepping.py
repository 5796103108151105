"""`steps`: a run that waits at what it is asked to wait at."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from queue import SimpleQueue
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.errors import ConfigError, did_you_mean
from crucible_kitchen.graph import Case, Switch, When, Workflow, as_workflow, walk
from crucible_kitchen.ports import Ports

from .events import Event, new
from .result import RunResult
from .run import arun
from .runtime import Runtime

_BEFORE = ("stage.start", "block.start")
_CLEAN_UP = re.compile(r"[^/]*/(finally|on_error)(/|$)")
_INDEX = re.compile(r"\[[\d*?]*\]")


class Pause(Event):
    """An event at which a run waits.

    Attributes:
        context: what a stage would see there: state, configuration, metrics.
    """

    context: Context


def steps(
    workflow: object,
    config: object = None,
    adapters: Mapping[str, Any] | Ports | None = None,
    *,
    breakpoints: Iterable[str] | None = None,
    **options: Any,
) -> Generator[Pause, None, RunResult]:
    """Run a workflow step by step: it waits at each event until the next one is asked for.

    To leave the ``for`` early ends the run, with its clean-up, once the generator is closed: at
    once after a ``break``, and with `contextlib.closing` also where the body raises. An error of
    the run is raised where the next event is asked for. The generator returns the `RunResult`.

    Args:
        workflow: value, or `Workflow` class.
        config: see `run`.
        adapters: see `run`.
        breakpoints: ids of executions to wait before, such as ``*/batches[2]/optim_step``; ``*``
            is any text, and without indices every iteration counts. None waits at every event.
        **options: of `run`.
    Raises:
        ConfigError: a breakpoint is at no stage or block of the workflow.
    """
    value = as_workflow(workflow)
    patterns = None if breakpoints is None else tuple(breakpoints)
    matches = None if patterns is None else matcher(value, patterns, "breakpoints")
    stepper = _Stepper(matches)
    handlers = [*options.pop("handlers", ()), stepper]
    worker = threading.Thread(
        target=stepper.work,
        args=(lambda: arun(value, config, adapters, handlers=handlers, **options),),
        name="crucible-steps",
        daemon=True,
    )
    worker.start()
    try:
        while (pause := stepper.told.get()) is not None:
            yield pause
            stepper.go_on.release()
    finally:
        stepper.end()
        worker.join()
    if stepper.error is not None:
        raise stepper.error
    assert stepper.result is not None
    return stepper.result


class _Stepper:
    """A handler that has the run wait until somebody asks for the next event."""

    def __init__(self, matches: Callable[[str], bool] | None) -> None:
        self.told: SimpleQueue[Pause | None] = SimpleQueue()
        self.go_on = threading.Semaphore(0)
        self.result: RunResult | None = None
        self.error: BaseException | None = None
        self._matches = matches
        self._runtime: Runtime | None = None
        self._ended = self._waiting = False
        self._cancel: Callable[[], object] = lambda: None

    def watch(self, runtime: Runtime, workflow: Workflow) -> None:
        """Told of the run before it begins."""
        self._runtime = runtime

    def __call__(self, event: Event) -> None:
        if self._ended or not self._waits(event):
            return
        assert self._runtime is not None
        pause = new(Pause, event)
        pause.context = context_at(self._runtime, event.path)
        self._waiting = True
        self.told.put(pause)
        self.go_on.acquire()
        self._waiting = False
        if self._ended and not _CLEAN_UP.match(event.path):
            import asyncio

            # What it waits before must not run any more, and an Exception would only detach this.
            raise asyncio.CancelledError("nobody asks for the next step")

    def _waits(self, event: Event) -> bool:
        return self._matches is None or (event.kind in _BEFORE and self._matches(event.path))

    def work(self, begin: Callable[[], Any]) -> None:
        """Run to the end, on a thread of its own."""
        import asyncio  # here and not above: few runs are stepped through

        async def main() -> RunResult:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            self._cancel = lambda: loop.call_soon_threadsafe(task.cancel)
            if self._ended:
                task.cancel()
            result: RunResult = await begin()
            return result

        try:
            self.result = asyncio.run(main())
        except BaseException as error:  # noqa: BLE001 - raised by the one who steps
            self.error = error
        self._cancel = lambda: None
        self.told.put(None)

    def end(self) -> None:
        """Have the run end, if it has not; it waits at nothing more."""
        if self.result is None and self.error is None:
            self._ended = True
            if self._waiting:  # it ends by itself, and what cleans up must not be cancelled
                self.go_on.release()
                return
            with contextlib.suppress(RuntimeError):  # its loop may have closed this very moment
                self._cancel()
        self.go_on.release()


def context_at(runtime: Runtime, path: str) -> Context:
    """The context of this moment in the thread or scope that an execution is of."""
    prefix = f"{path.rpartition('/')[0]}/"
    waiting = [runtime]
    for one in waiting:
        if one.prefix == prefix:
            return one.context(path)
        waiting += one.forks
    return runtime.context(path)


def matcher(workflow: Workflow, patterns: Iterable[str], what: str) -> Callable[[str], bool]:
    """Whether an id of an execution is one of those meant.

    Raises:
        ConfigError: a pattern can match no stage and no block that tells that it begins.
    """
    silent = (When, Switch, Case)
    known = [path for path, node in walk(workflow) if not isinstance(node, silent)]
    tests = []
    for pattern in patterns:
        bare = _glob(without_indices(pattern))
        if not any(bare.fullmatch(path) for path in known):
            names = {path.rpartition("/")[2] for path in known}
            advice = did_you_mean(pattern.rpartition("/")[2], names)
            raise ConfigError(f"{what}: nothing in {workflow.name} is at {pattern!r}; {advice}")
        tests.append(_glob(pattern))
    return lambda path: any(
        test.fullmatch(path) or test.fullmatch(without_indices(path)) for test in tests
    )


def without_indices(path: str) -> str:
    """``sft/epochs/optim_step`` of ``sft/epochs[2]/optim_step``."""
    return _INDEX.sub("", path)


def _glob(pattern: str) -> re.Pattern[str]:
    """``*`` as any text, slashes too, and ``?`` as any letter; brackets stand for themselves."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."))
