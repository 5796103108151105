"""What every recipe that trains a model can be told."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from crucible_kitchen.data import MixturePart

from ._config import RecipeConfig

if TYPE_CHECKING:
    from typing_extensions import Self

Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Mixture = Annotated[list[MixturePart], Field(min_length=1)]
DEFAULT_STEPS = 40
_BUILTIN_EVAL_SPLIT = "validation"
_DURATION = re.compile(
    r"(?:(\d+)d)?\s*(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+(?:\.\d+)?)s?)?", re.ASCII
)
_SECONDS = (86400, 3600, 60, 1)


class LoopConfig(RecipeConfig):
    """The model, the data, the steps and the optimizer; a recipe names its data set.

    A step is one optimizer step on `batch_size` rows times `gradient_accumulation`.
    """

    sequences_per_row: ClassVar[int] = 1
    """How many sequences of at most `max_length` tokens a row gives."""

    model: Text = Field("smollm2-135m", description="name the hub client knows, or a local folder")
    dataset: Text | Mixture
    dataset_options: dict[str, Any] = Field(
        {},
        description="what else the store is told, such as {config: main} or {streaming: true} of "
        "a hub's data set; each data set of a list has options of its own",
    )
    max_rows: Positive | None = Field(
        None, description="most rows of a split, from its start; a stream is read no further"
    )
    window_rows: Positive | None = Field(
        None,
        description="read so many rows at a time, for data that is too large to be read at once; "
        "it needs max_steps. null: all rows before the first step",
    )
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
    pack_tokens: Positive | None = Field(
        None,
        description="pack rows, by best fit, into batches of at most so many tokens instead of "
        "batch_size rows; results of a row do not depend on its company",
    )
    order: Literal["shuffled", "by_length", "as_given"] = Field(
        "shuffled",
        description="of the rows in an epoch: random by seed and epoch; likewise, with rows of "
        "like length in a step; or that of the data set",
    )
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        2e-4, description="the peak of the schedule"
    )
    schedule: Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "wsd"] = Field(
        "cosine", description="how the rate falls after the warm-up"
    )
    warmup: int | float = Field(
        0.1, description="steps as a whole number, or a share of all steps in [0, 1)"
    )
    schedule_power: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="of polynomial, where null is 2; other schedules have none"
    )
    schedule_decay: int | float | None = Field(
        None,
        description="the fall at the end of wsd, as warmup is given, where null is 0.2; other "
        "schedules have none",
    )
    min_learning_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="where linear, cosine, polynomial and wsd end"
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="decoupled decay"
    )
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.9, description="decay of AdamW's mean of gradients"
    )
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.95, description="decay of AdamW's mean of their squares"
    )
    adam_eps: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        1e-12, description="added to the root of that mean"
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
    start_from: Text | None = Field(
        None,
        description="folder of a run or of its adapter, of the same lora_rank and targets, whose "
        "training goes on; null: a fresh update",
    )
    seed: Annotated[int, Field(ge=0, lt=2**64)] = Field(
        0, description="of the update, of dropout and of the order of rows"
    )
    eval_every: Whole = Field(
        20, description="evaluate every so many steps, besides first and last; 0: only those"
    )
    eval_rows: Whole | None = Field(
        None,
        description="held-out rows to evaluate; null: 48, but at most a fifth of the rows",
    )
    early_stopping: Whole = Field(
        0, description="stop when so many evaluations in a row bring no lower eval_loss; 0: never"
    )
    early_stopping_gain: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="how much lower than the best an eval_loss must be to count, in nats"
    )
    save_best: bool = Field(
        False,
        description="keep the model of the lowest eval_loss as checkpoints/best, and end with it",
    )
    max_time: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None,
        description="stop behind the step in which this is up: seconds, or text such as 1h30m; a "
        "run that is taken up again has it anew",
    )
    save_every: Whole = Field(0, description="save a checkpoint every so many steps; 0: never")
    keep_last: Whole = Field(2, description="checkpoints to keep; 0: all")
    gradient_checkpointing: bool = Field(
        False, description="keep fewer activations and compute them again: less memory, more time"
    )
    fsdp: bool = Field(
        False,
        description="under torchrun, keep a part of the frozen weights in each process: less "
        "memory, more traffic",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the frozen weights"
    )

    @field_validator("dataset")
    @classmethod
    def _names_differ(cls, dataset: Any) -> Any:
        if isinstance(dataset, str):
            return dataset
        names = [part.name for part in dataset]
        weighted = [part.name for part in dataset if part.weight is not None]
        if len(set(names)) < len(names):
            raise ValueError("a name, or a list of data sets that differ")
        if weighted and len(weighted) < len(names):
            raise ValueError("a name, or a list of data sets that all or none have a weight")
        return dataset

    @field_validator("warmup", "schedule_decay")
    @classmethod
    def _part_in_range(cls, part: int | float | None) -> int | float | None:
        if part is None:
            return None
        share = isinstance(part, float)
        if part < 0 or (share and not part < 1.0) or isinstance(part, bool):
            raise ValueError("whole steps of at least 0, or a share in [0, 1)")
        return part

    @field_validator("max_time", mode="before")
    @classmethod
    def _in_seconds(cls, given: Any) -> Any:
        return _seconds(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _schedule_reads_what_it_is_told(self) -> Self:
        for name, reader in (("schedule_power", "polynomial"), ("schedule_decay", "wsd")):
            value = getattr(self, name)
            if value is not None and self.schedule != reader:
                raise ValueError(
                    f"{name} must be null for schedule={self.schedule!r}, which has none, "
                    f"got {value}"
                )
        if self.min_learning_rate and self.schedule in ("constant", "inverse_sqrt"):
            raise ValueError(
                f"min_learning_rate must be 0 for schedule={self.schedule!r}, which does not end, "
                f"got {self.min_learning_rate}"
            )
        if self.min_learning_rate > self.learning_rate:
            raise ValueError(
                f"min_learning_rate must be at most learning_rate = {self.learning_rate}, "
                f"got {self.min_learning_rate}"
            )
        return self

    @model_validator(mode="after")
    def _every_row_fits_a_pack(self) -> Self:
        if self.pack_tokens is None:
            return self
        most = self.sequences_per_row * getattr(self, "max_length", 1)
        if self.pack_tokens < most:
            raise ValueError(
                f"pack_tokens must be at least {most}, the most tokens of one row, "
                f"got {self.pack_tokens}; a smaller max_length makes rows smaller"
            )
        if self.order == "by_length":
            raise ValueError(
                "order must not be 'by_length' with pack_tokens, which groups rows itself"
            )
        return self

    @model_validator(mode="after")
    def _early_stopping_can_be_judged(self) -> Self:
        if self.early_stopping and not self.eval_every:
            raise ValueError(
                f"eval_every must be above 0 for early_stopping={self.early_stopping}, which goes "
                "by evaluations, got 0"
            )
        if self.eval_rows == 0 and (self.early_stopping or self.save_best):
            asked = "early_stopping" if self.early_stopping else "save_best"
            raise ValueError(
                f"eval_rows must be above 0 for {asked}, which goes by the held-out loss, got 0"
            )
        if self.early_stopping_gain and not (self.early_stopping or self.save_best):
            raise ValueError(
                "early_stopping_gain must be 0 without early_stopping or save_best, "
                f"got {self.early_stopping_gain}"
            )
        return self

    @model_validator(mode="after")
    def _windows_have_an_end(self) -> Self:
        if self.window_rows is None:
            return self
        if self.max_steps is None or self.epochs is not None:
            raise ValueError(
                "window_rows must come with max_steps and without epochs, as nobody knows how "
                f"many rows there are, got max_steps={self.max_steps}, epochs={self.epochs}"
            )
        if not isinstance(self.dataset, str):
            raise ValueError("window_rows must be null for a list of data sets")
        return self

    @model_validator(mode="after")
    def _options_belong_to_a_data_set(self) -> Self:
        if self.dataset_options and not isinstance(self.dataset, str):
            raise ValueError(
                "dataset_options must be empty for a list of data sets, each of which can have "
                f"options, got {self.dataset_options}"
            )
        return self

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
        if filled.get("eval_split") is None and all(
            name.startswith("builtin:") for name in dataset_names(dataset)
        ):
            filled["eval_split"] = _BUILTIN_EVAL_SPLIT
        return filled


def dataset_names(dataset: Any) -> list[str]:
    """Every data set's name; checked or not, a mixture is a list of parts."""
    if not isinstance(dataset, list):
        return [str(dataset)]
    return [str(p.get("name") if isinstance(p, dict) else getattr(p, "name", p)) for p in dataset]


def _seconds(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``1h30m`` or ``2d`` in seconds.

    Raises:
        ValueError: it is none of these.
    """
    found = _DURATION.fullmatch(text.strip())
    parts = [] if found is None else [part or "0" for part in found.groups()]
    if found is None or not any(map(float, parts)):
        raise ValueError("seconds, or text such as 90s, 15m, 1h30m")
    return sum(float(part) * size for part, size in zip(parts, _SECONDS, strict=True))


class TrainingConfig(LoopConfig):
    """The same, for recipes whose model answers prompts before and after."""

    samples: Whole = Field(2, description="held-out prompts to answer before and after")
    sample_tokens: Positive = Field(48, description="most tokens of such an answer")
