"""`retrying`: an adapter that tries again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any, Final

from crucible_kitchen.errors import ConfigError, PortError, did_you_mean
from crucible_kitchen.graph import Retry
from crucible_kitchen.ports import Future

from .wrap import P, in_front_of, methods_of, port_of

SAFE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "training_client": ("start_session", "get_tokenizer", "close_session"),
        "sampling_client": ("start_session", "sample", "compute_logprobs", "close_session"),
        "dataset_store": ("load_dataset", "get_split", "to_list"),
        "blob_store": ("read", "stream", "write", "exists", "list", "delete"),
        "hub_client": ("download", "snapshot", "list_files", "upload"),
        "metrics_store": ("record", "flush", "read", "get_history"),
        "completer": ("complete", "complete_batch", "get_model"),
        "evaluator": ("evaluate",),
        "model_registry": ("get", "list"),
    }
)
"""Port -> the methods that may be called again after a failure.

Not among them: what may have been done half (gradients that were added, steps that were taken), and
what says that it was done already (`register`).
"""

_DEFAULT: Final = Retry(attempts=3, backoff=0.5, max_backoff=30.0, on=PortError)


def retrying(adapter: P, retry: Retry = _DEFAULT, *, methods: Iterable[str] | None = None) -> P:
    """An adapter like `adapter` that calls it again when it fails.

    A call that was given an iterator is made once, as the iterator is used up; one that gives an
    iterator is tried again only until it has one. The last attempt's error comes through as it is.

    Args:
        adapter: of any port.
        retry: how often, after which waits and errors; by default 3 attempts at a `PortError`.
        methods: which methods are tried again; by default those that are `SAFE`.
    Raises:
        ConfigError: the port has no such method.
    """
    port = port_of(adapter)
    again = SAFE[port.name] if methods is None else tuple(methods)
    for name in again:
        if name not in methods_of(port):
            advice = did_you_mean(name, methods_of(port))
            raise ConfigError(f"retrying: {port.name} has no method {name!r}; {advice}")
    waiting = ThreadPoolExecutor(8, thread_name_prefix=f"retrying-{port.name}")

    def around(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def call() -> Any:
            return getattr(adapter, name)(*args, **kwargs)

        if name not in again or any(isinstance(a, Iterator) for a in (*args, *kwargs.values())):
            return call()
        result = _persistently(call, retry)
        if isinstance(result, Future):
            return Future.of(waiting.submit(_settled, result, call, retry))
        return result

    def close() -> None:
        waiting.shutdown()
        adapter.close()

    front: P = in_front_of(port, adapter, "Retrying", around, close)
    return front


def _persistently(call: Callable[[], Any], retry: Retry, failed: int = 0) -> Any:
    """The result of `call`, of which `failed` attempts have been made."""
    while True:
        try:
            return call()
        except retry.on:
            failed += 1
            if failed >= retry.attempts:
                raise
            time.sleep(retry.wait(failed, random.random()))


def _settled(first: Future[Any], call: Callable[[], Any], retry: Retry) -> Any:
    """The result of work that was asked for once, and is asked for again when it fails."""
    try:
        return first.result()
    except retry.on:
        if retry.attempts == 1:
            raise
        time.sleep(retry.wait(1, random.random()))
    return _persistently(lambda: call().result(), retry, failed=1)
