"""External weights to be downloaded, by addresses that hold for a while and need no key."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse

from .state import Checkpoint, NotFound, Refused, Run, State, moment

PREFIX: Final = "/downloads/"
_KIND: Final = "external_weights"
_LIFETIME_S: Final = 3600


def add_downloads(router: APIRouter, state: State) -> None:
    """Addresses of files, and the files."""
    # Another one after each start: addresses of before are over then.
    secret = secrets.token_bytes(32)

    def sign(run: str, name: str, file: str, expires: int) -> str:
        signed = "\0".join((run, name, file, str(expires))).encode()
        return hmac.new(secret, signed, hashlib.sha256).hexdigest()

    def found(run_id: str, name: str) -> tuple[Run, Checkpoint]:
        return state.find(f"tinker://{run_id}/{_KIND}/{name}")

    @router.get("/training_runs/{run_id}/checkpoints/{kind}/{name}/external_weights_urls")
    async def urls(request: Request, run_id: str, kind: str, name: str) -> dict[str, Any]:
        if kind != _KIND:
            raise Refused(f"external_weights_urls: the checkpoint must be of {_KIND}, got {kind!r}")
        _, checkpoint = found(run_id, name)
        expires = int(time.time()) + _LIFETIME_S
        root = str(request.base_url).rstrip("/") + router.prefix + PREFIX
        addresses = {}
        for file in sorted(checkpoint.files):
            path = "/".join(quote(part, safe="") for part in (run_id, name, file))
            signed = {"expires": expires, "signature": sign(run_id, name, file, expires)}
            addresses[file] = f"{root}{path}?{urlencode(signed)}"
        return {"urls": addresses, "expires": moment(expires)}

    @router.get(PREFIX + "{run_id}/{name}/{file:path}")
    async def download(
        run_id: str, name: str, file: str, expires: int, signature: str
    ) -> FileResponse:
        right = sign(run_id, name, file, expires).encode()
        if not hmac.compare_digest(right, signature.encode()) or expires < time.time():
            raise NotFound("this address holds no longer; ask for the external weights' urls anew")
        path = found(run_id, name)[1].files.get(file)
        if path is None:
            raise NotFound(f"no file {file!r} in {name!r}")
        return FileResponse(path)
