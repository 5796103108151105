"""`Port`: what every port is."""

from __future__ import annotations

from abc import ABC
from pathlib import Path
from typing import Any, ClassVar

from crucible_kitchen.errors import PortError


class Port(ABC):
    """Something a stage may ask of the world; an adapter is a subclass that can do it.

    A method that waits for nothing checks its arguments and raises at the call. A method that gives
    a `Future` raises for bad arguments at the call, and for work that failed from the future. What
    an adapter cannot do is a `PortError`; errors of the system behind it never come through.
    """

    name: ClassVar[str]
    """The key under which an adapter is passed: ``adapters={"training_client": ...}``."""

    concurrent: ClassVar[bool] = False
    """Whether two stages may use one instance at the same time."""

    handles: ClassVar[tuple[type, ...]] = ()
    """Classes of what it gives out that stands for something an adapter holds, such as a model."""

    handles_change: ClassVar[bool] = True
    """Whether what `save_value` saves of a handle changes as the handle is used."""

    def owns(self, value: object) -> bool:
        """Whether a handle is one of this adapter's that is in use.

        A run that writes checkpoints has the adapter save such a handle, instead of pickling it.
        An adapter that can do that defines this method, `save_value` and `load_value`.
        """
        return False

    def save_value(self, value: Any, path: Path) -> Any | None:
        """Save what a handle stands for, as it is once the work asked for so far is done.

        Args:
            value: a handle that it `owns`.
            path: a file or folder of its own to write, which does not exist.
        Returns:
            Plain JSON that `load_value` needs besides; None where it cannot be saved at this
            moment, and the run should ask again after its next stage.
        Raises:
            PortError: it cannot be saved.
        """
        raise PortError(f"{self.name}: {type(self).__name__} cannot save its handles")

    def load_value(self, saved: Any, path: Path) -> Any:
        """A handle that stands for what `save_value` saved.

        Args:
            saved: what `save_value` gave.
            path: what it has written.
        Raises:
            PortError: it cannot be loaded.
        """
        raise PortError(f"{self.name}: {type(self).__name__} cannot load handles")

    def close(self) -> None:  # noqa: B027 - an adapter that holds nothing has nothing to do
        """Give back what the adapter holds; calling it again changes nothing."""
