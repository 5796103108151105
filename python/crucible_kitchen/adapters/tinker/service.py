"""What the adapters of the Tinker SDK share: its clients, futures in order, errors in our words."""

from __future__ import annotations

import concurrent.futures
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeVar

from crucible_kitchen.adapters.foreign import library, without_secrets
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import Future, SessionConfig, Tokenizer

T = TypeVar("T")

_ALPHA: Final = 32.0
_NAME: Final = re.compile(r"[^\w.-]+")
# What the SDK asks of names; the end of a path tells more than its beginning.
_LONGEST_NAME: Final = 100


class Service:
    """How to reach the service.

    Args:
        port: who asks.
        base_url: of the server; by default what ``TINKER_BASE_URL`` says, or the hosted service.
        api_key: by default what ``TINKER_API_KEY`` says; it is in no message.
    """

    def __init__(self, port: str, base_url: str | None, api_key: str | None) -> None:
        self.port, self._base_url, self._api_key = port, base_url, api_key

    def sdk(self) -> Any:
        """The SDK.

        Raises:
            PortError: it is not installed; the message names the extra.
        """
        return library("tinker", port=self.port, extra="tinker")

    def connect(self) -> Any:
        """A client of the service, which is a session of its own there."""
        sdk = self.sdk()
        with self.speaking_our_errors("reach the service"):
            return sdk.ServiceClient(base_url=self._base_url, api_key=self._api_key)

    def disconnect(self, client: Any) -> None:
        """End a client's session there; older SDKs only stop to give signs of it."""
        with self.speaking_our_errors("close the session"):
            if hasattr(client, "close"):
                client.close("success").result()
            else:
                client.holder.close()

    def tokenizer(self, client: Any, model: str) -> Tokenizer:
        """The tokenizer of a client's model, which the SDK loads."""
        with self.speaking_our_errors(f"load the tokenizer of {model}"):
            try:
                tokenizer: Tokenizer = client.get_tokenizer()
            except OSError as error:
                raise self.in_our_words("load the tokenizer", error) from None
        return tokenizer

    @contextmanager
    def speaking_our_errors(self, doing: str) -> Iterator[None]:
        """Turn the SDK's errors into a `PortError`."""
        try:
            yield
        except (PortError, ConfigError):
            raise
        except self.foreign() as error:
            raise self.in_our_words(doing, error) from None

    def foreign(self) -> tuple[type[Exception], ...]:
        """What the SDK raises; some of its failures are bare `ValueError` and `RuntimeError`."""
        errors: tuple[type[Exception], ...] = (self.sdk().TinkerError, ValueError, RuntimeError)
        return errors

    def in_our_words(self, doing: str, error: BaseException) -> PortError:
        """The original may hold the request with its headers, a key among them: it is not kept."""
        key = self._api_key or os.environ.get("TINKER_API_KEY")
        said = without_secrets(str(error), key).partition(" for self.request_id")[0]
        return PortError(f"{self.port}: could not {doing}: {said or type(error).__name__}")


def made(asked: Any) -> Any:
    """A client that the SDK was asked for: newer ones promise it, older ones give it."""
    return asked.result() if hasattr(asked, "result") else asked


def _future(asked: Any) -> concurrent.futures.Future[Any]:
    """The plain future in one of the SDK's; older ones give it bare, or without a way to it."""
    if isinstance(asked, concurrent.futures.Future):
        return asked
    if not hasattr(asked, "future"):
        asked = asked.holder.run_coroutine_threadsafe(asked.result_async())
    plain: concurrent.futures.Future[Any] = asked.future()
    return plain


class Line:
    """Results of one session, which come in the order in which they were asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._lock = threading.RLock()
        self._waiting: deque[_Asked] = deque()

    def add(
        self,
        asked: Any,
        read: Callable[[Any], T],
        doing: str,
        raised: Sequence[BaseException] = (),
    ) -> Future[T]:
        """The future of something that the SDK was asked.

        Args:
            asked: the SDK's future.
            read: makes our result of the SDK's.
            doing: for the message if it fails.
            raised: what the caller's own code has raised by then, which comes unchanged.
        """
        ours: concurrent.futures.Future[T] = concurrent.futures.Future()
        theirs = _future(asked)
        with self._lock:
            self._waiting.append(_Asked(theirs, ours, read, doing, raised))
        theirs.add_done_callback(lambda _: self._hand_over())
        return Future.of(ours)

    def drain(self) -> None:
        """Wait until all that was asked is there."""
        with self._lock:
            last = self._waiting[-1].ours if self._waiting else None
        if last is not None:
            last.exception()

    def _hand_over(self) -> None:
        with self._lock:
            while self._waiting and self._waiting[0].theirs.done():
                self._settle(self._waiting.popleft())

    def _settle(self, one: _Asked) -> None:
        error = one.theirs.exception()
        if error is None:
            try:
                one.ours.set_result(one.read(one.theirs.result()))
            except (TypeError, ValueError, KeyError) as wrong:
                one.ours.set_exception(self._service.in_our_words(one.doing, wrong))
        elif one.raised:
            one.ours.set_exception(one.raised[0])
        elif isinstance(error, self._service.foreign()):
            one.ours.set_exception(self._service.in_our_words(one.doing, error))
        else:
            one.ours.set_exception(error)


class _Asked(NamedTuple):
    theirs: concurrent.futures.Future[Any]
    ours: concurrent.futures.Future[Any]
    read: Callable[[Any], Any]
    doing: str
    raised: Sequence[BaseException]


def checkpoint_name(path: str) -> str:
    """A path as a name that the service takes; the same path gives the same name."""
    return _NAME.sub("-", path).strip("-.")[-_LONGEST_NAME:].strip("-.") or "checkpoint"


def lora_options(config: SessionConfig) -> dict[str, Any]:
    """A session's configuration as the service takes it.

    Raises:
        ConfigError: it asks for what the service does not have; the message names the keys.
    """
    fixed: Mapping[str, Any] = {
        "lora_alpha": _ALPHA,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "dora": False,
        "dtype": "auto",
        "gradient_checkpointing": False,
        "fsdp": False,
    }
    wrong = [f"{key} must be {want}" for key, want in fixed.items() if getattr(config, key) != want]
    given = config.lora_targets
    targets = {given} if isinstance(given, str) else set(given)
    if not targets <= {"all-linear", "attention", "mlp", "head"}:
        wrong.append("lora_targets must be of all-linear, attention, mlp and head")
    if wrong:
        raise ConfigError(f"start_session: tinker leaves these to the service: {'; '.join(wrong)}")
    return {
        "rank": config.lora_rank,
        "seed": config.seed,
        "train_mlp": not targets.isdisjoint({"all-linear", "mlp"}),
        "train_attn": not targets.isdisjoint({"all-linear", "attention"}),
        "train_unembed": "head" in targets,
    }
