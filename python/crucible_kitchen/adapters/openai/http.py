"""JSON over HTTP to one server, whose key is in no error."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from crucible_kitchen.adapters.foreign import without_secrets
from crucible_kitchen.errors import ConfigError, PortError

_ADVICE: Final = {
    401: "; set OPENAI_API_KEY, or give api_key",
    403: "; set OPENAI_API_KEY, or give api_key",
    404: "; check base_url and model",
    429: "; retrying(adapter) waits and tries again",
}
_SHOWN: Final = 300


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Another host must not be handed the key."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse; the answer is then an error like any other."""


class Server:
    """Posts JSON to paths below one URL.

    Args:
        url: ``http`` or ``https``.
        key: the bearer token, None for a server that asks for none.
        timeout: seconds without a byte after which the server counts as gone.
    """

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(
                f"completer: base_url must begin with http:// or https://, got "
                f"{without_secrets(url, key)!r}"
            )
        self._url, self._timeout = url.rstrip("/"), timeout
        self.__key = key
        self._opener = urllib.request.build_opener(_NoRedirects)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer, parsed.

        Raises:
            PortError: there is none, or it is an error or no JSON.
        """
        with self._answer(path, body) as answer:
            return self._parsed(answer.read())

    def stream(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """The events of an answer as they come, parsed, up to ``[DONE]``.

        Raises:
            PortError: as `post`, or the answer broke off.
        """
        with self._answer(path, body) as answer:
            for line in answer:
                if line.startswith(b"data:"):
                    data = line.removeprefix(b"data:").strip()
                    if data == b"[DONE]":
                        return
                    yield self._parsed(data)
        raise PortError(f"completer: {self._shown()} broke its answer off")

    @contextmanager
    def _answer(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.__key:
            headers["Authorization"] = f"Bearer {self.__key}"
        request = urllib.request.Request(
            f"{self._url}/{path}", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise PortError(self._refusal(error)) from None
        except (OSError, http.client.HTTPException) as error:
            reason = without_secrets(str(getattr(error, "reason", error)), self.__key)
            raise PortError(f"completer: could not reach {self._shown()}: {reason}") from None

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read(1 << 16).decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException):
            text = "no reason"
        # Servers like to repeat the key that they refuse.
        said = without_secrets(text, self.__key)[:_SHOWN]
        return (
            f"completer: {self._shown()} answered {error.code}: {said}{_ADVICE.get(error.code, '')}"
        )

    def _parsed(self, data: bytes) -> Any:
        try:
            parsed = json.loads(data)
        except ValueError:
            said = without_secrets(data.decode("utf-8", errors="replace"), self.__key)[:_SHOWN]
            raise PortError(
                f"completer: {self._shown()} must answer in JSON, got {said!r}"
            ) from None
        if isinstance(parsed, dict) and parsed.get("error"):
            said = without_secrets(json.dumps(parsed["error"]), self.__key)[:_SHOWN]
            raise PortError(f"completer: {self._shown()} failed: {said}")
        return parsed

    def _shown(self) -> str:
        return without_secrets(self._url, self.__key)
