"""Load the model and put a LoRA update on it, fresh or from an earlier run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import stage
from crucible_kitchen.ports import Session, SessionConfig, Tokenizer, TrainingClient


class Started(NamedTuple):
    """A session at its first step.

    Args:
        session: the loaded model.
        tokenizer: the model's.
        step: optimizer steps taken, 0.
        last_checkpoint: None, until one is saved.
        stop_reason: empty, until the training ends early.
    """

    session: Session
    tokenizer: Tokenizer
    step: int
    last_checkpoint: str | None
    stop_reason: str


@stage
def init_session(
    model_path: str,
    start_from: str | None,
    max_length: int,
    lora_rank: int,
    lora_alpha: float,
    lora_dropout: float,
    lora_targets: Any,
    dtype: str,
    seed: int,
    gradient_checkpointing: bool,
    fsdp: bool,
    scored: bool = False,
    comparator: bool = False,
    *,
    training_client: TrainingClient,
) -> Started:
    """Start a session of the training client.

    Args:
        scored: train a head that gives scores, in place of the one over the vocabulary.
        comparator: leave that away: the model says in words which answer is the better one.
    Raises:
        ConfigError: the model was made for shorter sequences than `max_length`.
        PortError: the model cannot be loaded.
    """
    config = SessionConfig.coerce(
        {
            "model": model_path,
            "checkpoint_path": None if start_from is None else _weights_of(start_from),
            "lora_rank": lora_rank,
            "lora_alpha": lora_alpha,
            "lora_dropout": lora_dropout,
            "lora_targets": lora_targets,
            "dtype": dtype,
            "seed": seed,
            "gradient_checkpointing": gradient_checkpointing,
            "fsdp": fsdp,
            "head": "scalar" if scored and not comparator else "vocabulary",
        }
    )
    most = training_client.longest_sequence(config)
    if most is not None and max_length > most:
        raise ConfigError(
            f"init_session: max_length must be at most max_position_embeddings = {most} of the "
            f"model {model_path}, got {max_length}; it knows no later places. Where its positions "
            "are scaled to more, its config.json must say so"
        )
    session = training_client.start_session(config)
    return Started(session, training_client.get_tokenizer(session), 0, None, "")


def _weights_of(start_from: str) -> str:
    """A run's adapter by its folder, or what was named: an adapter, or what the client knows."""
    folder = Path(start_from).expanduser()
    if (folder / "adapter").is_dir():
        return str(folder / "adapter")
    return str(folder) if folder.exists() else start_from
