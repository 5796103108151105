"""The other side of `process`: what runs in the process of a stage."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from multiprocessing import spawn
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, NamedTuple

from crucible_kitchen.context import MetricRecord, Metrics
from crucible_kitchen.graph.executors import find


class Load(NamedTuple):
    """Asks for a function to be found; answered by an `Answer` without a value.

    Args:
        preparation: of `multiprocessing.spawn`: paths, folder, and the main module where needed.
    """

    preparation: dict[str, Any]
    module: str
    name: str


class Answer(NamedTuple):
    """What came of a request.

    Args:
        value: what the function returned, pickled.
        records: metrics it recorded.
        error: what it raised, pickled; None also where it cannot be.
        said: text of the error, empty where there was none.
        trace: its traceback.
    """

    value: bytes = b""
    records: tuple[MetricRecord, ...] = ()
    error: bytes | None = None
    said: str = ""
    trace: str = ""


_METRICS: ContextVar[Metrics] = ContextVar("metrics")


def metrics_here() -> Metrics:
    """What `Metrics` becomes on its way here: a recorder whose records go back with the answer."""
    return _METRICS.get()


def main(file: int) -> None:
    """Answer requests until the other side is gone.

    Args:
        file: descriptor of the connection.
    """
    connection = Connection(file)
    requests: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        # A thread of its own, so that a stage does not outlive the run that waits for it.
        try:
            while True:
                requests.put(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    function: Callable[..., Any] | None = None
    while True:
        metrics = Metrics()
        _METRICS.set(metrics)
        try:
            request = pickle.loads(requests.get())
            if isinstance(request, Load):
                spawn.prepare(request.preparation)
                function = find(request.module, request.name)
                answer = Answer()
            else:
                assert function is not None
                args, kwargs = request
                value = function(*args, **kwargs)
                answer = Answer(_pickled_value(value), tuple(metrics.log))
        except BaseException as error:  # noqa: BLE001 - raised again on the other side
            answer = _failed(error, metrics)
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send_bytes(pickle.dumps(answer))


class UnpicklableError(TypeError):
    """What a stage returned cannot be handed to another process."""


def _pickled_value(value: Any) -> bytes:
    try:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        kind = type(value).__name__
        raise UnpicklableError(f"returned {kind}, which cannot be pickled: {error}") from error


def _failed(error: BaseException, metrics: Metrics) -> Answer:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    said = f"{type(error).__name__}: {error}"
    try:
        pickled: bytes | None = pickle.dumps(error, pickle.HIGHEST_PROTOCOL)
        pickle.loads(pickled or b"")  # some can be written and not be read
    except Exception:  # noqa: BLE001 - whatever it is, its text and traceback go over
        pickled = None
    return Answer(b"", tuple(metrics.log), pickled, said, trace)
