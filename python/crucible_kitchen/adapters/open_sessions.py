"""The sessions that a client has open."""

from __future__ import annotations

from typing import Generic, TypeVar

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import Session

T = TypeVar("T")


class OpenSessions(Generic[T]):
    """Each open session of a client with what stands behind it, in the order of their starts.

    Args:
        port: whose sessions they are, for the error.
    """

    def __init__(self, port: str) -> None:
        self._port = port
        self._open: dict[str, tuple[Session, T]] = {}

    def add(self, session: Session, behind: T) -> None:
        """From now on the session is open."""
        self._open[session.id] = session, behind

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Session) and self._open.get(value.id, (None,))[0] is value

    def __getitem__(self, session: Session) -> T:
        # Ids are unique within a client only, so a namesake of another client must not pass.
        if session not in self:
            raise PortError(
                f"{self._port}: session must be open here, got {session.id!r}, which is closed "
                "or another client's"
            )
        return self._open[session.id][1]

    def pop(self, session: Session) -> T | None:
        """What stood behind a session that is no longer open; None if it was not."""
        return self._open.pop(session.id)[1] if session in self else None

    def all(self) -> list[T]:
        """What stands behind the open sessions."""
        return [behind for _, behind in self._open.values()]

    def clear(self) -> None:
        """Nothing is open any more."""
        self._open.clear()
