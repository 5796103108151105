"""Get the model's tokenizer, without the model where that is possible."""

from __future__ import annotations

from crucible_kitchen.graph import stage
from crucible_kitchen.ports import SessionConfig, Tokenizer, TrainingClient


@stage(writes="tokenizer")
def load_tokenizer(model_path: str, *, training_client: TrainingClient) -> Tokenizer:
    """The tokenizer that a session on the model would have.

    Raises:
        PortError: it cannot be loaded.
    """
    return training_client.load_tokenizer(SessionConfig(model=model_path))
