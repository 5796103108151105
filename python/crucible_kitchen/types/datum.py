"""`Datum`: one training example, its input and what the loss compares it with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from .model_input import ModelInput
from .record import Record
from .tensor import TensorData

IGNORE_INDEX: Final = -100

# Inputs with one entry per position of the model input, and the dtype each is kept in.
TOKEN_INPUTS: Final[Mapping[str, str]] = {
    "target_tokens": "int64",
    "weights": "float32",
    "logprobs": "float32",
    "advantages": "float32",
}


@dataclass(frozen=True, slots=True, init=False)
class Datum(Record):
    """One training example.

    Args:
        model_input: what the model reads, T positions: a `ModelInput`, a mapping that holds its
            fields, or a list of token ids.
        loss_fn_inputs: name -> `TensorData`, or anything that makes one. ``target_tokens`` (int64),
            ``weights``, ``logprobs`` and ``advantages`` (float32) are [T], aligned with the input:
            entry t belongs to the prediction made at position t. ``labels`` instead of
            ``target_tokens`` and ``weights``: [T] token ids as the input itself, -100 where a token
            is not trained; they are shifted by one here, once, so the last position has weight 0.

    Raises:
        TypeError, ValueError: a value of the wrong kind, dtype or length.
    """

    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]

    def __init__(
        self,
        model_input: ModelInput | Mapping[str, Any] | Iterable[int],
        loss_fn_inputs: Mapping[str, Any],
    ) -> None:
        model_input = ModelInput.coerce(model_input)
        if not isinstance(loss_fn_inputs, Mapping):
            raise TypeError(
                "Datum: loss_fn_inputs must be a mapping from name to tensor, "
                f"got {type(loss_fn_inputs).__name__}"
            )
        given = dict(loss_fn_inputs)
        inputs: dict[str, TensorData] = {}
        if "labels" in given:
            inputs.update(_from_labels(given, model_input.length))
        for name, value in given.items():
            inputs[name] = _loss_input(name, value, model_input)
        object.__setattr__(self, "model_input", model_input)
        object.__setattr__(self, "loss_fn_inputs", inputs)

    @classmethod
    def coerce(cls, value: Any) -> Datum:
        """`value` as a `Datum`: one already, or a mapping that holds its fields.

        Raises:
            TypeError, ValueError: it is neither, or as the constructor.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        raise TypeError(f"Datum: value must be a Datum or a mapping, got {type(value).__name__}")

    @property
    def num_trained_tokens(self) -> int:
        """How many positions have a weight other than 0; all of them where there are no weights."""
        weights = self.loss_fn_inputs.get("weights")
        if weights is None:
            return self.model_input.length
        return int(np.count_nonzero(weights.numpy()))


def _loss_input(name: str, value: Any, model_input: ModelInput) -> TensorData:
    try:
        tensor = TensorData.coerce(value, TOKEN_INPUTS.get(name))
    except (TypeError, ValueError) as error:
        raise type(error)(f"Datum: {name}: {error}") from error
    if name in TOKEN_INPUTS:
        _check_aligned(name, tensor, model_input.length)
    return tensor


def _check_aligned(name: str, tensor: TensorData, length: int) -> None:
    if tensor.shape != (length,):
        raise ValueError(
            f"Datum: {name} must have shape [{length}], one entry per position of the input, "
            f"got {list(tensor.shape)}"
        )


def _from_labels(given: dict[str, Any], length: int) -> dict[str, TensorData]:
    """Take ``labels`` out of `given` and shift them into targets and weights."""
    for other in ("target_tokens", "weights"):
        if other in given:
            raise ValueError(
                f"Datum: labels must come without {other}, which they define; got both"
            )
    try:
        tensor = TensorData.coerce(given.pop("labels"), "int64")
    except (TypeError, ValueError) as error:
        raise type(error)(f"Datum: labels: {error}") from error
    _check_aligned("labels", tensor, length)
    labels = tensor.numpy()
    wrong = labels[(labels < 0) & (labels != IGNORE_INDEX)]
    if wrong.size:
        raise ValueError(f"Datum: labels must be token ids or {IGNORE_INDEX}, got {wrong[0]}")
    targets = np.zeros(length, dtype=np.int64)
    targets[:-1] = labels[1:]
    trained = np.zeros(length, dtype=bool)
    trained[:-1] = labels[1:] != IGNORE_INDEX
    targets[~trained] = 0
    return {
        "target_tokens": TensorData(targets),
        "weights": TensorData(trained.astype(np.float32)),
    }
