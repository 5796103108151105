"""`Session`: a model that is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crucible_kitchen.errors import PortError

if TYPE_CHECKING:
    from .session_config import SessionConfig


class Session:
    """A loaded model, opaque to stages; adapters subclass it to keep what they need.

    Args:
        id: unique within the adapter.
        config: what it was started with.
    """

    def __init__(self, id: str, config: SessionConfig) -> None:  # noqa: A002 - a session's id
        self.id = id
        self.config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}(id={self.id!r}, model={self.config.model!r})"


def check_head(session: Session, wanted: str, method: str) -> None:
    """Refuse a session whose head does not give what a method asks it for.

    Raises:
        PortError: `session` has another head than `wanted`.
    """
    got = session.config.head
    if got != wanted:
        other = "score and forward_backward_custom" if got == "scalar" else "forward"
        raise PortError(
            f"training_client: {method} must have a session with head={wanted!r}, got {got!r}; "
            f"such a session takes {other}"
        )
