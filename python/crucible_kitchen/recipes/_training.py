"""What every recipe that trains a model can be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ._config import RecipeConfig

if TYPE_CHECKING:
    from typing_extensions import Self

Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
DEFAULT_STEPS = 40
_BUILTIN_EVAL_SPLIT = "validation"


class TrainingConfig(RecipeConfig):
    """The model, the data, the steps and the optimizer; a recipe names its data set.

    A step is one optimizer step on `batch_size` rows times `gradient_accumulation`.
    """

    model: Text = Field("smollm2-135m", description="name the hub client knows, or a local folder")
    dataset: Text
    train_split: str = Field("train", description="the split that is trained")
    eval_split: str | None = Field(
        None,
        description="the split that is evaluated; null: `validation` of built-in data, of "
        "other data `eval_rows` rows are held out of the training split",
    )
    epochs: Positive | None = Field(
        None, description="passes over the data; null: as many as max_steps needs"
    )
    max_steps: Positive | None = Field(
        None,
        description=f"at most this many steps; null: all of the epochs, or {DEFAULT_STEPS} "
        "where epochs is null too",
    )
    batch_size: Positive = Field(4, description="rows that go through the model at a time")
    gradient_accumulation: Positive = Field(1, description="such batches in a step")
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        2e-4, description="the peak of the schedule"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="how the rate falls after the warm-up"
    )
    warmup: int | float = Field(
        0.1, description="steps as a whole number, or a share of all steps in [0, 1)"
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="decoupled decay"
    )
    grad_clip_norm: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="largest norm of the gradients; 0: no clipping"
    )
    lora_rank: Positive = Field(16, description="inner size of the update")
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        32.0, description="the update is scaled by alpha / rank"
    )
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="share of the update's inputs dropped while training"
    )
    lora_targets: (
        Literal["all-linear", "attention", "mlp"] | Annotated[list[str], Field(min_length=1)]
    ) = Field("all-linear", description="which linear layers are updated")
    seed: Whole = Field(0, description="of the update, of dropout and of the order of rows")
    eval_every: Whole = Field(
        20, description="evaluate every so many steps, besides first and last; 0: only those"
    )
    eval_rows: Whole | None = Field(
        None,
        description="held-out rows to evaluate; null: 48, but at most a fifth of the rows",
    )
    save_every: Whole = Field(0, description="save a checkpoint every so many steps; 0: never")
    keep_last: Whole = Field(2, description="checkpoints to keep; 0: all")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights"
    )
    samples: Whole = Field(2, description="held-out prompts to answer before and after")
    sample_tokens: Positive = Field(48, description="most tokens of such an answer")

    @field_validator("warmup")
    @classmethod
    def _warmup_in_range(cls, warmup: int | float) -> int | float:
        share = isinstance(warmup, float)
        if warmup < 0 or (share and not warmup < 1.0) or isinstance(warmup, bool):
            raise ValueError("whole steps of at least 0, or a share in [0, 1)")
        return warmup

    @model_validator(mode="after")
    def _evaluates_what_it_does_not_train(self) -> Self:
        if self.eval_split == self.train_split:
            raise ValueError(
                f"eval_split must be another split than train_split, got {self.eval_split!r} "
                "twice; null holds rows of it out"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Defaults that depend on other fields; without an end of its own a run is short."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        if filled.get("epochs") is None and filled.get("max_steps") is None:
            filled["max_steps"] = DEFAULT_STEPS
        dataset = filled.get("dataset", cls.model_fields["dataset"].default)
        if filled.get("eval_split") is None and str(dataset).startswith("builtin:"):
            filled["eval_split"] = _BUILTIN_EVAL_SPLIT
        return filled
