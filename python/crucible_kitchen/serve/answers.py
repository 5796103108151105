"""What the server remembers, as the protocol shows it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crucible_kitchen.types import OptimStepResult

from .state import KINDS, Checkpoint, Run, SessionRecord, moment

# A server at home has one owner, whose all of it is.
OWNER: Final = "local"


def run_answer(run: Run, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """A training run as the protocol shows it."""
    answer: dict[str, Any] = {
        "training_run_id": run.id,
        "base_model": run.base_model,
        "model_owner": OWNER,
        "is_lora": True,
        "lora_rank": run.rank,
        "last_request_time": moment(max(run.time, run.asked)),
        "user_metadata": as_text(run.user_metadata),
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
    return {
        "checkpoint_id": f"{checkpoint.kind}/{checkpoint.name}",
        "checkpoint_type": KINDS[checkpoint.kind],
        "time": moment(checkpoint.time),
        "tinker_path": run.path(checkpoint),
        "size_bytes": checkpoint.size,
        "public": checkpoint.public,
        "user_metadata": as_text(checkpoint.user_metadata),
        "expires_at": None if checkpoint.expires is None else moment(checkpoint.expires),
    }


def step_answer(done: OptimStepResult) -> dict[str, Any]:
    """An optimizer step as the protocol shows it; a metric's name says how several combine."""
    metrics = {
        "step:max": float(done.step),
        "grad_norm:mean": done.grad_norm,
        "learning_rate:mean": done.learning_rate,
    }
    return {"metrics": metrics, "type": "optim_step"}


def session_answer(session: SessionRecord, runs: Sequence[str]) -> dict[str, Any]:
    """A session as the protocol shows it, and the rest of what its program said of itself."""
    return {
        "training_run_ids": list(runs),
        "sampler_ids": list(session.samplers),
        "created_at": moment(session.time),
        "user_metadata": as_text(session.user_metadata),
        "display_name": session.display_name,
        "tags": session.tags,
        "project_id": session.project_id,
        "sdk_version": session.sdk_version,
        "ended": session.ended,
    }


def storage_answer(
    checkpoints: Iterable[tuple[str | None, Checkpoint]], project: str | None
) -> dict[str, Any]:
    """What checkpoints take on the disk by the project of their session, or of one project."""
    sizes: dict[str | None, list[int]] = {}
    for of, checkpoint in checkpoints:
        if project in (None, of):
            sizes.setdefault(of, []).append(checkpoint.size)
    data = [
        {
            "project_id": of,
            "checkpoint_count": len(taken),
            "size_bytes": sum(taken),
            "size_gigabytes": sum(taken) / 1e9,
        }
        for of, taken in sizes.items()
    ]
    return {"data": data}


def as_text(metadata: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Metadata as the protocol has it: programs may give any values, and are shown text."""
    if metadata is None:
        return None
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
