"""The file in which W&B writes a run down before, or instead of, sending it.

Source: LevelDB's log format, https://github.com/google/leveldb/blob/main/doc/log_format.md, after a
header of 7 bytes; its records are W&B's protobuf messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_HEADER: Final = 7
_BLOCK: Final = 32768
_FRAGMENT: Final = struct.Struct("<IHB")
_FULL, _LAST = 1, 4


def records(file: Path) -> Iterator[bytes]:
    """The records of a file, in order; a last one that is torn is passed over."""
    data = file.read_bytes()
    position, parts = _HEADER, b""
    while position + _FRAGMENT.size <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _FRAGMENT.size:
            position += left
            continue
        _, length, kind = _FRAGMENT.unpack_from(data, position)
        position += _FRAGMENT.size
        if position + length > len(data):
            return
        parts += data[position : position + length]
        position += length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""
