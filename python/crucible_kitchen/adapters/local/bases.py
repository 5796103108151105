"""Frozen models, each read once for all that use it at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from crucible_kitchen.adapters.local.device import resolve_device, resolve_dtype
from crucible_kitchen.adapters.local.model import CausalModel


class Bases:
    """The frozen models of a device; one that nobody uses any more is let go.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there is one.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._lock = threading.Lock()
        self._read: WeakValueDictionary[tuple[object, ...], CausalModel] = WeakValueDictionary()

    def model(self, folder: str, *, dtype: str) -> CausalModel:
        """A model to put an update on, over weights that others may use too.

        Two are over the same weights if they have the same `base`.

        Raises:
            PortError: see `CausalModel.load`.
        """
        key = (folder, self._dtype(folder, dtype), *_stamps(folder))
        with self._lock:
            base = self._read.get(key)
            if base is None:
                base = CausalModel.load(folder, dtype=dtype, device=self.device)
                self._read[key] = base
        return base.twin()

    def own(self, folder: str, *, dtype: str) -> CausalModel:
        """A model over weights of its own, on the CPU, from where it is sharded.

        Raises:
            PortError: see `CausalModel.load`.
        """
        wanted = str(self._dtype(folder, dtype)).removeprefix("torch.")
        return CausalModel.load(folder, dtype=wanted, device="cpu")

    def _dtype(self, folder: str, dtype: str) -> torch.dtype:
        return resolve_dtype(dtype, resolve_device(self.device), folder)


def _stamps(folder: str) -> tuple[tuple[str, int, int], ...]:
    """Of the files that make the model: one written anew in the same place is another model."""
    files = [Path(folder, "config.json"), *sorted(Path(folder).glob("*.safetensors"))]
    stats = [(file.name, file.stat()) for file in files]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
