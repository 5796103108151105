"""Give back the model."""

from __future__ import annotations

from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, TrainingClient


@stage
def close_session(session: Session | None = None, *, training_client: TrainingClient) -> None:
    """Close the session, where one was started."""
    if session is not None:
        training_client.close_session(session)
