"""`Port`: what every port is."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar


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

    def close(self) -> None:  # noqa: B027 - an adapter that holds nothing has nothing to do
        """Give back what the adapter holds; calling it again changes nothing."""
