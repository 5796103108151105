"""What adapters over somebody else's library share: its import, and its errors in our words."""

from __future__ import annotations

import importlib
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final
from urllib.parse import urlsplit

from crucible_kitchen.errors import PortError

# Keys in the shapes that libraries print: bearer and basic tokens, userinfo and queries of URLs,
# and the well-known prefixes.
_SECRETS: Final = re.compile(
    r"(?i)(?<=bearer )\S+|(?<=basic )\S+|(?<=://)[^/\s@]+@|(?<=\?)[^\s'\"]+"
    r"|\b(?:hf|sk|ghp|glpat)[-_][\w-]{8,}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}"
)

_PATIENCE_S: Final = 30.0


def library(module: str, *, port: str, extra: str) -> ModuleType:
    """Import a library when an adapter first needs it.

    Args:
        module: its full name.
        port: who needs it.
        extra: the extra of this package that installs it.
    Raises:
        PortError: it is not installed, or something that it needs is not.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PortError(
            f"{port}: this adapter needs {module.partition('.')[0]}, which cannot be imported "
            f"({error}); install it by: pip install 'crucible-kitchen[{extra}]'"
        ) from error


def without_secrets(text: str, *secrets: str | None) -> str:
    """`text` on one line, with `secrets` and whatever looks like one taken out."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _SECRETS.sub("***", " ".join(text.split()))


@contextmanager
def speaking_our_errors(
    port: str,
    doing: str,
    foreign: Callable[[], tuple[type[Exception], ...]],
    *secrets: str | None,
) -> Iterator[None]:
    """Turn a library's errors into a `PortError` that says what could not be done.

    Args:
        foreign: gives the library's errors; asked only when something failed, so that it may look
            for them in modules that are loaded by then.
        secrets: what must not be shown, whatever it looks like.
    """
    try:
        yield
    except foreign() as error:
        # The original may hold a request with its headers, a key among them: it is not kept.
        reason = without_secrets(str(error), *secrets) or "it gave no reason"
        raise PortError(f"{port}: could not {doing}: {type(error).__name__}: {reason}") from None


def check_reachable(url: str) -> None:
    """Ask a server of HTTP once, for libraries that ask for minutes before they give up.

    Any answer will do; an address of another protocol is passed over.

    Raises:
        OSError: there is no answer.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    try:
        urllib.request.urlopen(address, timeout=_PATIENCE_S).close()
    except urllib.error.HTTPError as answer:
        answer.close()
    except urllib.error.URLError as error:
        # Which certificates count is the library's own setting.
        if not isinstance(error.reason, ssl.SSLError):
            raise
