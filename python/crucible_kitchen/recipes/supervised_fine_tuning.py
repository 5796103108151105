"""`sft`: teach a language model to answer as the rows of a data set do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from crucible_kitchen.workflows import preview_sft, sft, sft_calibration

from ._config import Recipe
from ._training import Mixture, Text, TrainingConfig


class SupervisedFineTuning(Recipe):
    """LoRA fine-tuning on prompts and answers."""

    name = "sft"
    description = "Supervised fine-tuning with LoRA on prompts and answers."
    required_ports = ("training_client", "dataset_store")
    optional_ports = ("hub_client", "completer", "metrics_store", "blob_store", "model_registry")
    workflow = sft
    calibration = sft_calibration
    preview = preview_sft

    class Config(TrainingConfig):
        """What `sft` can be told; a step is one optimizer step on `batch_size` rows times
        `gradient_accumulation`."""

        dataset: Text | Mixture = Field(
            "builtin:python-docs",
            description="name the data store knows, or a local file, or a list of {name, weight}",
        )
        max_length: Annotated[int, Field(ge=2)] = Field(512, description="most tokens of a row")
        truncation: Literal["error", "drop", "left", "right", "middle"] = Field(
            "middle",
            description="what becomes of a longer row; middle cuts its prompt, never its answer",
        )
        train_on: Literal[
            "last_assistant",
            "all_assistant",
            "all_messages",
            "all_tokens",
            "completion_only",
            "customized",
        ] = Field("last_assistant", description="which turns are trained")
        untrained: Literal["error", "drop"] = Field(
            "error", description="what becomes of a row of which nothing is trained"
        )
