"""Keep the scores of a few held-out answers from before and after the training, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.data import Conversation, Preference
from crucible_kitchen.graph import stage

from ._folder import run_folder, write_json


@stage(writes="samples_path")
def save_scored_samples(
    eval_preferences: Sequence[Preference],
    scores_before: Sequence[float],
    scores_after: Sequence[float],
    *,
    ctx: Context,
) -> str | None:
    """Write ``samples.json`` into the run's folder; None where there is no folder.

    Raises:
        CrucibleError: it cannot be written.
    """
    folder = run_folder(ctx)
    if folder is None:
        return None
    rows = []
    for place in range(len(scores_after) // 2):
        preference = eval_preferences[place]
        before, after = (s[2 * place : 2 * place + 2] for s in (scores_before, scores_after))
        sides = zip(("chosen", "rejected"), preference, before, after, strict=True)
        rows.append(
            {
                "messages": _asked(preference.chosen),
                "scored": [
                    {"name": name, "text": _answer(side), "before": b, "after": a}
                    for name, side, b, a in sides
                ],
            }
        )
    path = folder / "samples.json"
    write_json(path, rows)
    return str(path)


def _asked(side: Conversation) -> list[dict[str, Any]]:
    return [message.to_dict() for message in side.messages[: side.prompt_messages]]


def _answer(side: Conversation) -> str:
    return "\n\n".join(message.content for message in side.messages[side.prompt_messages :])
