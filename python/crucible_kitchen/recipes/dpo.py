"""`dpo`: teach a language model which of two answers is the better one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crucible_kitchen.workflows import dpo, dpo_calibration, preview_dpo

from ._config import Recipe
from ._training import Mixture, Positive, Text, TrainingConfig

if TYPE_CHECKING:
    from typing_extensions import Self

_SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")
_SORTED = ("aot", "aot_unpaired")
_OF_THE_DIFFERENCE = ("sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop", "sigmoid_norm")


Loss = Literal[
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
]
Weight = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class DPO(Recipe):
    """Direct preference optimization with LoRA; the reference is the model as it starts."""

    name = "dpo"
    description = "Direct preference optimization with LoRA on pairs of answers."
    required_ports = ("training_client", "dataset_store")
    optional_ports = ("hub_client", "completer", "metrics_store", "blob_store", "model_registry")
    workflow = dpo
    calibration = dpo_calibration
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
        unmatched: Literal["error", "drop"] = Field(
            "error",
            description="of rows with a label instead of pairs: what becomes of a prompt whose "
            "answers are all good, or all bad",
        )
        equal_answers: Literal["error", "drop"] = Field(
            "error",
            description="what becomes of a pair whose two answers are the same, or were judged "
            "equal",
        )
        reference_model: Text | None = Field(
            None,
            description="the frozen model that answers are compared with, by name or folder; "
            "null: the model that is trained, as it starts",
        )
        loss_type: Loss | Annotated[dict[Loss, Weight], Field(min_length=1)] = Field(
            "sigmoid",
            description="formula of the loss, each with its paper in ops.dpo_loss; or several with "
            "their weights, such as {sigmoid: 1, bco_pair: 0.2}",
        )
        beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
            0.1, description="strength of the pull to the reference"
        )
        margin_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
            1.0,
            description="of rows with a margin: this times it is how much higher the reward of the "
            "chosen answer is to be; 0 leaves margins out. Only sigmoid, hinge, robust, exo_pair "
            "and discopop take margins",
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
        divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = Field(
            "reverse_kl", description="how the distance from the reference is measured"
        )
        divergence_alpha: Annotated[float, Field(gt=0, lt=1)] | None = Field(
            None, description="of the divergence alpha, where null is 0.5; others have none"
        )
        ld_alpha: Annotated[float, Field(ge=0, le=1)] | None = Field(
            None,
            description="weight of an answer's tokens beyond the length of the other one; null: 1",
        )

        @property
        def losses(self) -> set[str]:
            """The names of all losses in the sum."""
            return {self.loss_type} if isinstance(self.loss_type, str) else set(self.loss_type)

        @model_validator(mode="after")
        def _nothing_is_ignored(self) -> Self:
            losses, named = self.losses, f"loss_type={self.loss_type!r}"
            if self.label_smoothing is not None and losses.isdisjoint(_SMOOTHED):
                raise ValueError(
                    f"label_smoothing must be null for {named}, which takes none, "
                    f"got {self.label_smoothing}"
                )
            if self.label_smoothing == 0.0 and "exo_pair" in losses:
                raise ValueError("label_smoothing must be above 0 for loss_type='exo_pair', got 0")
            if "discopop_tau" in self.model_fields_set and "discopop" not in losses:
                raise ValueError(
                    f"discopop_tau must be left out for {named}, which has none, "
                    f"got {self.discopop_tau}"
                )
            if self.divergence_alpha is not None and self.divergence != "alpha":
                raise ValueError(
                    f"divergence_alpha must be null for divergence={self.divergence!r}, which has "
                    f"none, got {self.divergence_alpha}"
                )
            if self.divergence != "reverse_kl" and not losses <= set(_OF_THE_DIFFERENCE):
                raise ValueError(
                    f"divergence must be 'reverse_kl' for {named}: others are for losses of the "
                    f"difference of two answers ({', '.join(_OF_THE_DIFFERENCE)}), got "
                    f"{self.divergence!r}"
                )
            return self

        @model_validator(mode="after")
        def _sorted_pairs_come_together(self) -> Self:
            named = f"loss_type={self.loss_type!r}, which sorts the pairs of a batch"
            if self.losses.isdisjoint(_SORTED):
                return self
            if self.batch_size < 2:
                raise ValueError(f"batch_size must be at least 2 for {named}, got 1")
            if self.pack_tokens is not None:
                raise ValueError(f"pack_tokens must be null for {named}, got {self.pack_tokens}")
            return self
