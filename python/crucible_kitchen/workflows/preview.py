"""What a recipe would train on, before it does: its own stages up to the tokens."""

from __future__ import annotations

from crucible_kitchen.graph import workflow
from crucible_kitchen.stages import (
    load_data,
    load_tokenizer,
    preview_pairs,
    preview_rows,
    resolve_model,
)

preview_sft = workflow("preview")[load_data, resolve_model, load_tokenizer, preview_rows]
preview_dpo = workflow("preview")[load_data, resolve_model, load_tokenizer, preview_pairs]
preview_reward = workflow("preview")[
    load_data, resolve_model, load_tokenizer, preview_pairs.bind(scored=True)
]
