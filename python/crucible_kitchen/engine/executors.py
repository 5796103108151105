"""Where a function runs: in the thread of its caller, on a thread of its own, in a process."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from crucible_kitchen.graph import StageNode

from .crew import Crew
from .runtime import Runtime


def executor(node: StageNode, function: Callable[..., Any], rt: Runtime) -> Callable[..., Any]:
    """The function of a stage, but running where it is told to; itself where it is told nothing."""
    if node.executor == "process":
        # Here and not above: most runs start no process.
        from .process import Workers

        target = node.call  # `function` may hold arguments that are the same every time
        given = getattr(function, "keywords", {})

        def in_process(*args: Any, **kwargs: Any) -> Any:
            with rt.locks.family:
                if rt.locks.workers is None:
                    rt.locks.workers = Workers()
            return rt.locks.workers.call(rt, target, args, {**given, **kwargs}, node.timeout)

        return in_process
    if node.executor == "thread":
        return lambda *args, **kwargs: _on_thread(node, lambda: function(*args, **kwargs), rt)
    return function


def _on_thread(node: StageNode, call: Callable[[], Any], rt: Runtime) -> Any:
    """The result of a call on a thread of its own.

    Interrupted, it waits for the thread: it cannot be ended, and must not go on beside the
    clean-up. After a timeout it is left to itself, which is told.
    """
    done: SimpleQueue[tuple[BaseException | None, Any]] = SimpleQueue()

    def work() -> None:
        try:
            done.put((None, call()))
        except BaseException as error:  # noqa: BLE001 - raised again by who waits
            done.put((error, None))

    crew = Crew(lambda slot: work(), f"crucible-{node.name}")
    try:
        crew.start(0)
        error, value = done.get(timeout=node.timeout)
    except Empty:
        path = rt.prefix + node.name
        message = f"{path} goes on in its thread after its timeout; nobody waits for it"
        warnings.warn(message, RuntimeWarning, stacklevel=2)
        raise TimeoutError(f"took longer than its timeout of {node.timeout} s") from None
    except BaseException:
        crew.close()
        raise
    crew.wait()
    if error is not None:
        raise error
    return value
