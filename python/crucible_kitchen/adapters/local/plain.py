"""Models as transformers knows them, in memory: what others will load, without any part of ours."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from crucible_kitchen.adapters.local.model import quiet
from crucible_kitchen.errors import PortError


def read_model(folder: str | os.PathLike[str], *, scored: bool = False) -> Any:
    """A folder's model in float32 on the CPU, by transformers' own code.

    Args:
        scored: it is a sequence classifier with one score.

    Raises:
        PortError: the folder cannot be read.
    """
    kind: Any = AutoModelForSequenceClassification if scored else AutoModelForCausalLM
    try:
        with quiet():
            model = kind.from_pretrained(
                os.fspath(Path(folder)),
                dtype=torch.float32,
                attn_implementation="eager",
                local_files_only=True,
            )
    except (OSError, ValueError, KeyError) as error:
        raise PortError(f"local model: could not load model {folder}: {error}") from error
    return model.eval().requires_grad_(False)


def plain_model(config: Any, state: Mapping[str, Tensor], *, scored: bool = False) -> Any:
    """A model of transformers with given weights, which are shared and not copied.

    Args:
        config: of the model; a quantisation in it is left out, since the weights have none.
        scored: make a sequence classifier with one score.
    """
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    if scored:
        config.num_labels = 1
    kind: Any = AutoModelForSequenceClassification if scored else AutoModelForCausalLM
    # On "meta" nothing is allocated or initialised.
    with torch.device("meta"):
        plain = kind.from_config(config)
    plain.load_state_dict(state, assign=True)
    if not scored:
        plain.tie_weights()
    return plain
