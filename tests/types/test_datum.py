"""`Datum` and `ModelInput`: coercion, alignment, and the one shift of labels."""

from __future__ import annotations

import base64
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.types import Datum, EncodedTextChunk, ImageChunk, ModelInput, TensorData


def test_plain_dicts_and_lists_make_one() -> None:
    datum = Datum(
        model_input={"chunks": [{"tokens": [1, 2]}]},  # type: ignore[arg-type]
        loss_fn_inputs={"labels": [1, 2]},
    )
    assert datum == Datum(
        ModelInput.from_ints([1, 2]), {"target_tokens": [2, 0], "weights": [1, 0]}
    )


def test_labels_are_shifted_once() -> None:
    datum = Datum([10, 11, 12, 13], {"labels": [-100, 11, -100, 13]})
    assert datum.loss_fn_inputs["target_tokens"] == TensorData([11, 0, 13, 0], "int64")
    assert datum.loss_fn_inputs["weights"] == TensorData([1, 0, 1, 0], "float32")
    assert "labels" not in datum.loss_fn_inputs
    assert datum.num_trained_tokens == 2
    again = Datum(datum.model_input, datum.loss_fn_inputs)
    assert again == datum


@given(st.lists(st.integers(-1, 50), min_size=1, max_size=20))
def test_labels_agree_with_their_definition(drawn: list[int]) -> None:
    labels = [-100 if label < 0 else label for label in drawn]
    datum = Datum(range(len(labels)), {"labels": labels})
    targets = datum.loss_fn_inputs["target_tokens"].tolist()
    weights = datum.loss_fn_inputs["weights"].tolist()
    assert len(targets) == len(weights) == len(labels)
    for position, label in enumerate(labels[1:]):
        assert weights[position] == (label != -100)
        assert targets[position] == (label if label != -100 else 0)
    assert weights[-1] == 0


def test_inputs_are_typed_by_name() -> None:
    inputs = {
        "target_tokens": np.array([1, 2], dtype=np.int32),
        "weights": [1, 0],
        "logprobs": torch.tensor([-1.0, -2.0], dtype=torch.float64),
        "advantages": {"data": [1, 2], "dtype": "s32"},
        "mine": [1, 2, 3],
    }
    kept = {name: value.dtype for name, value in Datum([5, 6], inputs).loss_fn_inputs.items()}
    assert kept == {
        "target_tokens": "int64",
        "weights": "float32",
        "logprobs": "float32",
        "advantages": "float32",
        "mine": "int64",
    }


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        ({"labels": [1]}, ValueError, r"labels must have shape \[2\].*got \[1\]"),
        ({"labels": [1, -1]}, ValueError, "-100, got -1"),
        ({"labels": [1, 2], "weights": [1, 1]}, ValueError, "without weights"),
        ({"labels": [1, 2], "target_tokens": [1, 1]}, ValueError, "without target_tokens"),
        ({"labels": [1, 0.5]}, ValueError, "labels: .*0.5"),
        ({"target_tokens": [1.5, 2]}, ValueError, "target_tokens: .*1.5"),
        ({"target_tokens": [1, 2, 3]}, ValueError, r"\[2\]"),
        ({"weights": [[1, 1]]}, ValueError, r"got \[1, 2\]"),
        ({"weights": "ones"}, TypeError, "weights: .*str"),
        ([1, 2], TypeError, "mapping"),
    ],
)
def test_what_is_wrong_is_named(inputs: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        Datum([5, 6], inputs)


def test_a_mapping_of_fields_makes_one_and_a_misspelt_one_is_named() -> None:
    fields = {"model_input": [1, 2], "loss_fn_inputs": {"labels": [1, 2]}}
    assert Datum.coerce(fields) == Datum([1, 2], {"labels": [1, 2]})
    with pytest.raises(ValueError, match="did you mean 'loss_fn_inputs'"):
        Datum.coerce({"model_input": [1], "loss_fn_input": {}})
    with pytest.raises(ValueError, match="loss_fn_inputs must be given"):
        Datum.coerce({"model_input": [1]})
    with pytest.raises(TypeError, match="got int"):
        Datum.coerce(3)


def test_a_datum_can_be_sent() -> None:
    datum = Datum([1, 2, 3], {"labels": [1, 2, 3]})
    assert pickle.loads(pickle.dumps(datum)) == datum


def test_model_input_is_built_from_chunks() -> None:
    image = ImageChunk(b"\x89PNG", "png", expected_tokens=4)
    whole = ModelInput.from_ints([1, 2]).append(image).append(EncodedTextChunk([3])).append(4)
    assert whole.length == len(whole) == 8
    assert whole == ModelInput(
        [
            {"type": "encoded_text", "tokens": np.array([1, 2])},
            {"data": base64.b64encode(b"\x89PNG").decode(), "expected_tokens": 4},
            {"tokens": torch.tensor([3])},
            {"tokens": (4,)},
        ]
    )
    with pytest.raises(ValueError, match="image"):
        whole.to_ints()
    assert ModelInput.from_ints(range(3)).append(9).to_ints() == [0, 1, 2, 9]
    assert ModelInput().to_ints() == []


@pytest.mark.parametrize(
    ("chunks", "error", "says"),
    [
        ("text", TypeError, "got str"),
        ([[1, 2]], TypeError, "got list"),
        ([{"type": "sound"}], ValueError, "'sound'"),
        ([{"tokens": [1], "tokenz": 2}], ValueError, "did you mean 'tokens'"),
        ([{"tokens": [-1]}], ValueError, "got -1"),
        ([{"tokens": [1.0]}], TypeError, "1.0"),
        ([{"tokens": [True]}], TypeError, "True"),
        ([{"tokens": "12"}], TypeError, "str"),
        ([{"data": "%%", "format": "png"}], ValueError, "base64"),
        ([{"data": b"x", "format": "gif"}], ValueError, "'gif'"),
        ([{"data": b"x", "expected_tokens": 0}], ValueError, "at least 1"),
    ],
)
def test_malformed_chunks_are_named(chunks: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        ModelInput(chunks)


def test_an_image_of_unknown_size_has_no_length() -> None:
    with pytest.raises(ValueError, match="expected_tokens"):
        _ = ImageChunk(b"x").length
