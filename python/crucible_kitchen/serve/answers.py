"""What the server remembers, as the protocol shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .state import Checkpoint, Run, moment


def run_answer(run: Run, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """A training run as the protocol shows it."""
    answer: dict[str, Any] = {
        "training_run_id": run.id,
        "base_model": run.base_model,
        "model_owner": "local",
        "is_lora": True,
        "lora_rank": run.rank,
        "last_request_time": moment(run.time),
        "user_metadata": run.user_metadata,
        "corrupted": False,
    }
    for kind, name in (
        ("weights", "last_checkpoint"),
        ("sampler_weights", "last_sampler_checkpoint"),
    ):
        last = [checkpoint for checkpoint in checkpoints if checkpoint.kind == kind]
        if last:
            answer[name] = checkpoint_answer(run, last[-1])
    return answer


def checkpoint_answer(run: Run, checkpoint: Checkpoint) -> dict[str, Any]:
    """A checkpoint as the protocol shows it."""
    files = [p for p in Path(checkpoint.weights).rglob("*") if p.is_file()]
    return {
        "checkpoint_id": f"{checkpoint.kind}/{checkpoint.name}",
        "checkpoint_type": "training" if checkpoint.kind == "weights" else "sampler",
        "time": moment(checkpoint.time),
        "tinker_path": run.path(checkpoint),
        "size_bytes": sum(file.stat().st_size for file in files),
        "public": checkpoint.public,
        "user_metadata": checkpoint.user_metadata,
        "expires_at": None if checkpoint.expires is None else moment(checkpoint.expires),
    }
