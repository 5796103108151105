"""``cache=True``: what a stage gave is kept under what it was given, and given again.

The key is made of the inputs, of what was bound in place of them, and of the code of the stage with
all that it uses; see `content` and `code`. A key's file names the file of the result, which is
called by the hash of its content, so that equal results are kept once.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import secrets
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crucible_kitchen.context import MetricRecord
from crucible_kitchen.graph import StageNode

from .code import add_code
from .content import CannotHash, Content
from .folders import cache_dir
from .runtime import BorderError, Runtime

_FORMAT = "1"


class Kept(NamedTuple):
    """What a stage did.

    Args:
        result: what its function returned.
        records: metrics that it recorded.
    """

    result: Any
    records: tuple[MetricRecord, ...]


class Cached:
    """A stage's function that gives what it gave before, where it is given the same.

    Args:
        node: of the stage.
        function: what it calls, with the arguments that are the same in every call.
        rt: of the thread it runs in.
    """

    def __init__(self, node: StageNode, function: Callable[..., Any], rt: Runtime) -> None:
        self._node, self._function, self._rt = node, function, rt
        reads = {read.param for read in node.signature.reads}
        order = node.signature.order
        self._inputs = [(place, name) for place, name in enumerate(order) if name in reads]
        self._random = any(one.role == "rng" for one in node.signature.injected)
        self._store = Store(cache_dir() / "stages")

    def __call__(self, *given: Any, **injected: Any) -> Any:
        """As the function."""
        key, before = self._key(given), len(self._rt.metrics.log)
        kept = self._store.read(key)
        if kept is not None:
            return self._again(kept)
        return self._keep(key, self._function(*given, **injected), before)

    async def awaited(self, *given: Any, **injected: Any) -> Any:
        """As the function, where that is ``async``."""
        key, before = self._key(given), len(self._rt.metrics.log)
        kept = self._store.read(key)
        if kept is not None:
            return self._again(kept)
        return self._keep(key, await self._function(*given, **injected), before)

    def _key(self, given: Sequence[Any]) -> str:
        content = Content(add_code)
        content.raw("stage", _FORMAT)
        if self._random:
            content.raw("rng", str(self._rt.seed), self._rt.prefix + self._node.name)
        doing = "its code"
        try:
            content.add(self._node.call)
            for place, name in self._inputs:
                doing = f"input {name!r}"
                content.raw(name)
                content.add(given[place])
            doing = "its code"
            return content.hexdigest()
        except CannotHash as error:
            raise BorderError(
                f"cannot be cached: {doing}: {error}; leave cache=True out, or give it what can be "
                "compared"
            ) from error

    def _again(self, kept: Kept) -> Any:
        self._rt.tell("stage.cached", self._rt.prefix + self._node.name)
        for name, value, step, _, metadata in kept.records:
            self._rt.metrics.record(name, value, step=step, metadata=metadata)
        return kept.result

    def _keep(self, key: str, result: Any, before: int) -> Any:
        records = tuple(self._rt.metrics.log)[before:]
        self._store.write(key, Kept(result, records), self._rt.prefix + self._node.name)
        return result


class Store:
    """Results by key; files appear whole or not at all.

    Args:
        folder: of the cache; made when something is first kept.
    """

    def __init__(self, folder: Path) -> None:
        self._keys, self._contents = folder / "keys", folder / "contents"

    def read(self, key: str) -> Kept | None:
        """What is kept under a key; None where nothing is. What is damaged is a warning."""
        path = self._keys / key[:2] / key
        try:
            name = path.read_text(encoding="ascii").strip()
            data = (self._contents / name[:2] / name).read_bytes()
            if _hash(data) != name:
                raise pickle.UnpicklingError("its content is not what was written")
            kept = pickle.loads(data)
        except FileNotFoundError as error:
            if error.filename != str(path):
                _warn(f"{path} is damaged and made again: {error.filename} is gone")
            return None
        except (OSError, ValueError, EOFError, *_UNREADABLE) as error:
            _warn(f"{path} is damaged and made again: {error}")
            return None
        assert isinstance(kept, Kept)  # by its hash it is what was written
        return kept

    def write(self, key: str, kept: Kept, stage: str) -> None:
        """Keep a result; one that cannot be kept is a warning, for the run can go on."""
        try:
            data = pickle.dumps(kept, protocol=5)
        except (pickle.PicklingError, TypeError, AttributeError, RecursionError) as error:
            _warn(f"what {stage} gives cannot be kept: {error}")
            return
        name = _hash(data)
        try:
            _put(self._contents / name[:2] / name, data)
            _put(self._keys / key[:2] / key, name.encode())
        except OSError as error:
            _warn(f"what {stage} gives cannot be kept: {error}")


_UNREADABLE = (pickle.UnpicklingError, AttributeError, ImportError, IndexError, TypeError)


def _warn(said: str) -> None:
    warnings.warn(f"cache: {said}", RuntimeWarning, stacklevel=4)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
