"""``crucible serve``: the Tinker API on this machine."""

from __future__ import annotations

import argparse
import importlib
import secrets
import socket
from pathlib import Path
from types import ModuleType
from typing import Final

from crucible_kitchen import bootstrap
from crucible_kitchen.errors import ConfigError

from ._arguments import whole

HELP = "serve models of this machine to programs written for the Tinker API"
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
# Clients refuse keys that begin otherwise.
_PREFIX: Final = "tml-"
_SETTINGS: Final = {
    "log_level": "warning",
    "access_log": False,
    # No client reads who served it and when; each header costs it time.
    "server_header": False,
    "date_header": False,
    "proxy_headers": False,
    "ws": "none",
    # Longer than clients keep a connection that is not used, so that none meets a closed one.
    "timeout_keep_alive": 120,
}


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        help="a model to serve; may be given again; noop: a dry server, without a model",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=8700, help="port; 0 takes any that is free"
    )
    parser.add_argument(
        "--state-dir",
        type=Path,
        default=Path("runs") / "serve",
        help="folder of sessions and checkpoints; a server that is started anew goes on with it",
    )
    parser.add_argument(
        "--api-keys", type=Path, help="file with a key a line; needed off the loopback"
    )
    parser.add_argument("--max-models", type=whole(1), default=8, help="models open at a time")
    parser.add_argument("--max-sequence", type=whole(1), default=8192, help="tokens of a sequence")
    parser.add_argument("--max-waiting", type=whole(1), default=4096, help="requests that may wait")
    parser.add_argument("--max-body", type=whole(1), default=64, help="MiB of a request")


def main(arguments: argparse.Namespace) -> int:
    """Serve until it is interrupted."""
    keys = _keys(arguments.api_keys)
    if arguments.host not in _LOOPBACK and not keys:
        raise ConfigError(
            f"serve: a server that others can reach needs --api-keys, got host {arguments.host}"
        )
    uvicorn, app = _library("uvicorn"), _library("crucible_kitchen.serve.app")
    kitchen = bootstrap.open_kitchen(
        arguments.model,
        arguments.state_dir,
        max_models=arguments.max_models,
        max_sequence=arguments.max_sequence,
        max_waiting=arguments.max_waiting,
    )
    try:
        listening = _listen(arguments.host, arguments.port)
        # What a client sends is not checked where no keys are; it only has to look like one.
        _say(arguments.host, listening.getsockname()[1], keys[0] if keys else f"{_PREFIX}local")
        made = app.make_app(kitchen, api_keys=keys, max_body_bytes=arguments.max_body << 20)
        protocol = _library("crucible_kitchen.serve.one_write").OneWriteProtocol
        server = uvicorn.Server(uvicorn.Config(made, http=protocol, **_SETTINGS))
        server.run([listening])
    finally:
        kitchen.close()
    return 0


def _keys(path: Path | None) -> list[str]:
    """The keys of a file; blank lines and those that begin with # are none."""
    if path is None:
        return []
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigError(f"serve: --api-keys {path} cannot be read: {error.strerror}") from error
    keys = [line for line in lines if line and not line.startswith("#")]
    wrong = [number for number, key in enumerate(keys, 1) if not key.startswith(_PREFIX)]
    if wrong or not keys:
        said = f"key {wrong[0]} does not" if wrong else "it holds none"
        raise ConfigError(
            f"serve: --api-keys {path} must hold keys that begin with {_PREFIX}; {said}; "
            f"a new one: {_PREFIX}{secrets.token_urlsafe(24)}"
        )
    return keys


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small answers at once only on sockets that say they are TCP's.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise ConfigError(f"serve: cannot listen on {host}:{port}: {error.strerror}") from error
    return listening


def _say(host: str, port: int, key: str) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"export TINKER_BASE_URL=http://{shown}:{port}")
    print(f"export TINKER_API_KEY={key}", flush=True)


def _library(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"serve: this needs a server's libraries, which cannot be imported ({error}); install "
            "them by: pip install 'crucible-kitchen[serve]'"
        ) from error
