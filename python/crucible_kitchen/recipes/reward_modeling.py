"""`reward`: teach a language model to score answers, from pairs of which one is better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crucible_kitchen.workflows import preview_reward, reward, reward_calibration

from ._config import Recipe
from ._training import LoopConfig, Mixture, Positive, Text, Whole

if TYPE_CHECKING:
    from typing_extensions import Self


class RewardModeling(Recipe):
    """A scalar head and LoRA, trained together on the Bradley-Terry loss; or a comparator."""

    name = "reward"
    description = "Reward modelling with LoRA and a scalar head on pairs."
    required_ports = ("training_client", "dataset_store")
    optional_ports = ("hub_client", "metrics_store", "blob_store", "model_registry")
    workflow = reward
    calibration = reward_calibration
    preview = preview_reward

    class Config(LoopConfig):
        """What `reward` can be told; a step is one optimizer step on `batch_size` pairs times
        `gradient_accumulation`."""

        sequences_per_row: ClassVar[int] = 2

        dataset: Text | Mixture = Field(
            "builtin:python-docs-preferences",
            description="name the data store knows, or a local file, or a list of {name, weight}; "
            "its rows may have a margin and a tie",
        )
        batch_size: Positive = Field(4, description="pairs that go through the model at a time")
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
            description="what becomes of a pair whose two answers are the same; of a comparator "
            "also of one that was judged equal",
        )
        comparator: bool = Field(
            False,
            description="no scalar head: the model is shown both answers, in both orders, and is "
            "trained to say A or B; margins of rows change nothing",
        )
        centering: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
            0.01,
            description="pull of the two scores of a pair to a sum of 0; a comparator has none",
        )
        samples: Whole = Field(2, description="held-out pairs to show with their scores")

        @model_validator(mode="after")
        def _a_comparator_has_no_scores(self) -> Self:
            given = "centering" in self.model_fields_set
            default = type(self).model_fields["centering"].default
            if self.comparator and given and self.centering != default:
                raise ValueError(
                    "centering must be left out for comparator=true, which has no scores, "
                    f"got {self.centering}"
                )
            return self
