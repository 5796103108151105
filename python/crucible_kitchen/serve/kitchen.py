"""What the server does, apart from how it is asked: models and samplers of programs, over ports."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from crucible_kitchen.ports import SamplingClient, TrainingClient

from . import bodies
from .catalogue import Catalogue
from .models import Models
from .samplers import Samplers
from .state import SessionRecord, State
from .work import Work


class Kitchen:
    """Trains and draws for clients.

    Args:
        training_client, sampling_client: do the work; only this server may use them.
        models: names that clients may ask for.
        state: what is remembered.
        **limits: of `Catalogue`.
    """

    def __init__(
        self,
        training_client: TrainingClient,
        sampling_client: SamplingClient,
        models: Sequence[str],
        state: State,
        **limits: int,
    ) -> None:
        self.catalogue = catalogue = Catalogue(tuple(models), **limits)
        self.state, self.work = state, Work(catalogue.max_waiting)
        self.samplers = Samplers(sampling_client, catalogue, state, self.work)
        self.models = Models(training_client, catalogue, state, self.work, self.samplers.new)

    def create_session(self, body: bodies.CreateSession) -> SessionRecord:
        """A program begins."""
        metadata = None if body.user_metadata is None else dict(body.user_metadata)
        record = SessionRecord(
            secrets.token_hex(16),
            time.time(),
            metadata,
            body.tags,
            body.display_name,
            project_id=body.project_id,
        )
        return self.state.save(record)

    def finish_session(self, session_id: str) -> None:
        """A program ends: its models are closed, its checkpoints stay."""
        self.state.session(session_id)
        self.models.close_all(session_id)

    def close(self) -> None:
        """Finish the work that runs, and let go of all models."""
        self.work.close()
        self.models.let_go()
        self.samplers.let_go()
