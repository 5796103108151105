"""`dpo`: teach a language model which of two answers is the better one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crucible_kitchen.workflows import dpo, preview_dpo

from ._config import Recipe
from ._training import Mixture, Positive, Text, TrainingConfig

if TYPE_CHECKING:
    from typing_extensions import Self

_SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
_SORTED = ("aot", "aot_unpaired")


class DPO(Recipe):
    """Direct preference optimization with LoRA; the reference is the model as it starts."""

    name = "dpo"
    description = "Direct preference optimization with LoRA on pairs of answers."
    required_ports = ("training_client", "dataset_store")
    optional_ports = ("hub_client", "completer", "metrics_store")
    workflow = dpo
    preview = preview_dpo

    class Config(TrainingConfig):
        """What `dpo` can be told; a step is one optimizer step on `batch_size` pairs times
        `gradient_accumulation`."""

        sequences_per_row: ClassVar[int] = 2

        dataset: Text | Mixture = Field(
            "builtin:python-docs-preferences",
            description="name the data store knows, or a local file, or a list of {name, weight}",
        )
        batch_size: Positive = Field(4, description="pairs that go through the model at a time")
        learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
            5e-5, description="the peak of the schedule"
        )
        max_length: Annotated[int, Field(ge=2)] = Field(
            512, description="most tokens of a prompt with either of its answers"
        )
        truncation: Literal["error", "drop", "left", "middle"] = Field(
            "middle",
            description="what becomes of a longer pair; left and middle cut its prompt, never an "
            "answer",
        )
        equal_answers: Literal["error", "drop"] = Field(
            "error", description="what becomes of a pair whose two answers are the same"
        )
        loss_type: Literal[
            "sigmoid",
            "hinge",
            "ipo",
            "robust",
            "exo_pair",
            "nca_pair",
            "bco_pair",
            "sppo_hard",
            "aot",
            "aot_unpaired",
            "apo_zero",
            "apo_down",
            "discopop",
            "sigmoid_norm",
        ] = Field("sigmoid", description="formula of the loss; each has its paper in ops.dpo_loss")
        beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
            0.1, description="strength of the pull to the reference"
        )
        label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] | None = Field(
            None,
            description="share of the pairs whose label is taken to be wrong; null: 0, of exo_pair "
            f"1e-3; only {', '.join(_SMOOTHED)} take one",
        )
        discopop_tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
            0.05, description="temperature of discopop; other losses have none"
        )
        sft_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
            0.0, description="how much of the chosen answer's loss per token is added"
        )

        @model_validator(mode="after")
        def _nothing_is_ignored(self) -> Self:
            if self.label_smoothing is not None and self.loss_type not in _SMOOTHED:
                raise ValueError(
                    f"label_smoothing must be null for loss_type={self.loss_type!r}, which takes "
                    f"none, got {self.label_smoothing}"
                )
            if self.label_smoothing == 0.0 and self.loss_type == "exo_pair":
                raise ValueError("label_smoothing must be above 0 for loss_type='exo_pair', got 0")
            if "discopop_tau" in self.model_fields_set and self.loss_type != "discopop":
                raise ValueError(
                    f"discopop_tau must be left out for loss_type={self.loss_type!r}, which has "
                    f"none, got {self.discopop_tau}"
                )
            if self.loss_type in _SORTED and self.batch_size < 2:
                raise ValueError(
                    f"batch_size must be at least 2 for loss_type={self.loss_type!r}, which sorts "
                    f"the pairs of a batch, got {self.batch_size}"
                )
            if self.loss_type in _SORTED and self.pack_tokens is not None:
                raise ValueError(
                    f"pack_tokens must be null for loss_type={self.loss_type!r}, which sorts the "
                    f"pairs of a batch, got {self.pack_tokens}"
                )
            return self
