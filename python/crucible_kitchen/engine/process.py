"""Stages in processes of their own: kept while the run lasts, and killed where they must end."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing import Pipe, spawn
from multiprocessing.connection import Connection
from typing import Any

from crucible_kitchen.context import Metrics
from crucible_kitchen.graph.executors import address

from .child import Answer, Load, UnpicklableError, metrics_here
from .runtime import BorderError, Runtime

_CODE = """import sys
sys.path[:] = {path!r}
from crucible_kitchen.engine.child import main
main({file})
"""


class ChildTraceback(Exception):
    """The traceback of an error in another process, as text."""

    def __str__(self) -> str:
        return f"in its process:\n{self.args[0]}"


class Workers:
    """The processes of a run. One that has answered is kept for the next stage.

    A process starts in a session of its own: Ctrl-C reaches the run, which ends the process and
    whatever that has started.
    """

    def __init__(self) -> None:
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()

    def call(
        self,
        rt: Runtime,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> Any:
        """Call a function in another process.

        Args:
            rt: of the stage; `Runtime.cancel` kills the process.
            function: can be found by its `address`.
            args, kwargs: handed over by pickle.
            timeout: seconds, counted from when the function is loaded there.
        Raises:
            BorderError: something cannot be handed over.
            TimeoutError: it took longer.
            ChildProcessError: the process ended before the function did.
        """
        request = _pickled(args, kwargs)
        worker = self._take()
        try:
            with rt.interruptible(worker.kill):
                load = Load(_preparation(function, request), *address(function))
                _raise(worker.ask(pickle.dumps(load), None))
                answer = worker.ask(request, timeout)
        except BaseException:
            worker.close()
            rt.check_cancelled()  # then that is why it ended
            raise
        with self._lock:
            self._idle.append(worker)
        for record in answer.records:
            rt.metrics.record(record.name, record.value, step=record.step, metadata=record.metadata)
        _raise(answer)
        return pickle.loads(answer.value)

    def close(self) -> None:
        """End every process."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return _Worker()


class _Worker:
    """One process, and the connection to it."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE.format(path=sys.path, file=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            self._connection.close()
            raise
        finally:
            theirs.close()

    def ask(self, request: bytes, timeout: float | None) -> Answer:
        connection: Connection = self._connection
        try:
            connection.send_bytes(request)
            if not connection.poll(timeout):
                raise TimeoutError(f"took longer than its timeout of {timeout} s")
            answer: Answer = pickle.loads(connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise ChildProcessError(f"its process {self._ended()}") from None
        return answer

    def kill(self) -> None:
        """End it now, with all it has started; again, it changes nothing."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it, and the connection to it; not while somebody asks it something."""
        self.kill()
        self._connection.close()

    def _ended(self) -> str:
        code = self._process.wait()
        if code >= 0:
            return f"ended with exit code {code} before the stage did"
        return f"was killed by {signal.Signals(-code).name}"


def _raise(answer: Answer) -> None:
    if not answer.said:
        return
    error: BaseException = RuntimeError(answer.said)
    if answer.error is not None:
        error = pickle.loads(answer.error)
    if isinstance(error, UnpicklableError):
        raise BorderError(str(error))
    raise error from ChildTraceback(answer.trace)


def _pickled(args: Sequence[Any], kwargs: dict[str, Any]) -> bytes:
    try:
        return _dump((tuple(args), kwargs))
    except Exception as error:  # whatever a class of the user's raises
        for value in (*args, *kwargs.values()):  # say which one
            try:
                _dump(value)
            except Exception as its_own:
                kind = type(value).__name__
                raise BorderError(
                    f"is handed {kind}, which cannot be pickled for another process: {its_own}"
                ) from its_own
        raise BorderError(f"cannot be handed to another process: {error}") from error


class _Pickler(pickle.Pickler):
    dispatch_table = {Metrics: lambda _: (metrics_here, ())}  # noqa: RUF012 - as pickle reads it


def _dump(value: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


def _preparation(function: Callable[..., Any], request: bytes) -> dict[str, Any]:
    """What another process needs before it can load a function and its arguments."""
    data: dict[str, Any] = spawn.get_preparation_data("crucible-stage")
    data.pop("authkey", None)
    if function.__module__ != "__main__" and b"__main__" not in request:
        # A script that runs this workflow when it is imported need not be imported.
        for key in ("init_main_from_name", "init_main_from_path"):
            data.pop(key, None)
    return data
