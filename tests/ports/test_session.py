"""`SessionConfig`: defaults, coercion, and errors that say what to write instead."""

from __future__ import annotations

from typing import Any

import pydantic
import pytest

from crucible_kitchen.errors import ConfigError
from crucible_kitchen.ports import Session, SessionConfig


def test_defaults_are_the_interfaces() -> None:
    config = SessionConfig.coerce({"model": "tiny"})
    assert config.model_dump() == {
        "model": "tiny",
        "lora_rank": 16,
        "lora_alpha": 32.0,
        "lora_dropout": 0.0,
        "lora_targets": "all-linear",
        "use_rslora": False,
        "dora": False,
        "dtype": "auto",
        "seed": 0,
        "gradient_checkpointing": False,
        "fsdp": False,
        "checkpoint_path": None,
        "head": "vocabulary",
    }
    assert SessionConfig.coerce(config) is config
    assert repr(Session("s1", config)) == "Session(id='s1', model='tiny')"


def test_targets_are_a_group_or_names() -> None:
    assert SessionConfig(model="m", lora_targets=["q_proj"]).lora_targets == ["q_proj"]
    for wrong in ("attn", [], ["q", 1], None):
        with pytest.raises(ConfigError, match="attention, mlp or a list of layer names"):
            SessionConfig.coerce({"model": "m", "lora_targets": wrong})


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m", "lora_rank": 0}, "lora_rank.*got 0"),
        ({"model": "m", "lora_rank": 1.5}, "lora_rank.*got 1.5"),
        ({"model": "m", "lora_alpha": float("nan")}, "lora_alpha"),
        ({"model": "m", "lora_dropout": 1.0}, "lora_dropout"),
        ({"model": "m", "dtype": "fp8"}, "dtype.*'bfloat16', got 'fp8'"),
        ({"model": "m", "lora_rnk": 4}, "did you mean 'lora_rank'"),
        (3, "start_session"),
    ],
)
def test_what_is_wrong_is_named(fields: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        SessionConfig.coerce(fields)


def test_it_does_not_change() -> None:
    config = SessionConfig(model="m")
    with pytest.raises(pydantic.ValidationError):
        config.model = "other"
    with pytest.raises(pydantic.ValidationError, match="did you mean 'seed'"):
        SessionConfig(model="m", sed=1)  # type: ignore[call-arg]
