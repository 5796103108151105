"""`SessionConfig`: which model to load, and the low-rank update to train on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from crucible_kitchen.errors import ConfigError, did_you_mean


class SessionConfig(BaseModel):
    """Which model to load, and the low-rank update to train on it.

    Args:
        model: a hub name, a local folder, or a name the adapter knows.
        lora_rank: inner size of the update, R.
        lora_alpha: the update is scaled by alpha / R (alpha / sqrt(R) with `use_rslora`).
        lora_dropout: share of the update's inputs that are dropped while training, in [0, 1).
        lora_targets: ``all-linear`` (but the head), ``attention``, ``mlp``, or a list of these,
            ``head`` (that over the vocabulary), and names of linear layers.
        use_rslora: rank-stabilised scale.
        dora: train the magnitude of each output beside its direction (weight-decomposed LoRA).
        dtype: of the frozen weights; ``auto`` takes what is faster on the device.
        seed: of the update's initial values and of dropout.
        gradient_checkpointing: compute activations again in the backward pass, to save memory.
        fsdp: keep a part of the frozen weights in each of the processes that train together, and
            put a layer together while it runs; one process by itself has them whole.
        checkpoint_path: a checkpoint to start from.
        head: what reads the last hidden states: the model's own head over the ``vocabulary``, or a
            new ``scalar`` one without bias, trained with the update, that gives a sequence one
            score at its last token.
    """

    # Building the validator at first use keeps it out of the time an import takes.
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True
    )

    model: Annotated[str, Field(min_length=1)]
    lora_rank: Annotated[int, Field(ge=1)] = 16
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 32.0
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    lora_targets: Literal["all-linear", "attention", "mlp"] | list[str] = "all-linear"
    use_rslora: bool = False
    dora: bool = False
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    gradient_checkpointing: bool = False
    fsdp: bool = False
    checkpoint_path: str | None = None
    head: Literal["vocabulary", "scalar"] = "vocabulary"

    @model_validator(mode="before")
    @classmethod
    def _suggest(cls, fields: Any) -> Any:
        if isinstance(fields, Mapping):
            for key in fields:
                if key not in cls.model_fields:
                    advice = did_you_mean(str(key), cls.model_fields)
                    raise ValueError(f"unknown key {key!r}; {advice}")
        return fields

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _targets(cls, targets: Any) -> Any:
        # Before the union, whose own message would complain about each of its members.
        names = isinstance(targets, list) and targets and all(isinstance(t, str) for t in targets)
        if not names and targets not in ("all-linear", "attention", "mlp"):
            raise ValueError("wanted all-linear, attention, mlp or a list of layer names")
        return targets

    @classmethod
    def coerce(cls, value: SessionConfig | Mapping[str, Any]) -> SessionConfig:
        """`value` as a `SessionConfig`: one already, or a mapping that holds its fields.

        Raises:
            ConfigError: an unknown key (with a suggestion), an absent or a wrong value.
        """
        if isinstance(value, cls):
            return value
        try:
            return cls.model_validate(dict(value))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"start_session: {_reasons(error)}") from error


def _reasons(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    reasons = []
    for detail in error.errors(include_url=False):
        where = ".".join(map(str, detail["loc"]))
        said = str(detail["msg"]).removeprefix("Value error, ")
        reasons.append(f"{where} must be valid: {said}, got {detail['input']!r}" if where else said)
    return "; ".join(reasons)
