"""What the server does, apart from how it is asked: models and samplers of programs, over ports."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence

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
        contexts, **limits: of `Catalogue`.
    """

    def __init__(
        self,
        training_client: TrainingClient,
        sampling_client: SamplingClient,
        models: Sequence[str],
        state: State,
        *,
        contexts: Mapping[str, int] | None = None,
        **limits: int,
    ) -> None:
        self.catalogue = catalogue = Catalogue(tuple(models), contexts or {}, **limits)
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
            sdk_version=body.sdk_version,
        )
        return self.state.save(record)

    def finish_session(self, session_id: str, body: bodies.Finish) -> None:
        """A program ends: its models are closed, its checkpoints stay; how it ends is said once."""
        record = self.state.session(session_id)
        if record.ended is None:
            record.ended = {"reason": body.reason.type, "detail": body.detail}
            self.state.save(record)
        self.models.close_all(session_id)

    def metrics(self) -> dict[str, int]:
        """What goes on and what was done; names that end in ``_total`` only grow."""
        done = self.models.counters()
        return {
            "requests_waiting": self.work.waiting,
            "models_open": self.models.open,
            "samplers_ready": self.samplers.ready,
            **{f"training_{name}_total": value for name, value in done.items()},
        }

    def close(self) -> None:
        """Finish the work that runs, and let go of all models."""
        self.work.close()
        self.models.let_go()
        self.samplers.let_go()
