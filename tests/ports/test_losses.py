"""The table of losses, and what it refuses for every adapter."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import LOSSES, check_datums, check_loss
from crucible_kitchen.types import Datum

_TRAINED = {"model_input": [1, 2], "loss_fn_inputs": {"labels": [1, 2]}}


def test_the_table_is_the_interfaces() -> None:
    assert list(LOSSES) == ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro"]
    assert check_loss("ppo") == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    assert check_loss("ppo", {"clip_high_threshold": 2}) == {
        "clip_low_threshold": 0.8,
        "clip_high_threshold": 2.0,
    }
    assert check_loss("cross_entropy", None) == {}
    with pytest.raises(TypeError):
        LOSSES["ppo"].config["clip_low_threshold"] = 0.0  # type: ignore[index]


@pytest.mark.parametrize(
    ("loss_fn", "config", "says"),
    [
        ("xent", None, "cross_entropy, importance_sampling, ppo, cispo, dro, got 'xent'"),
        (None, None, "got None"),
        (["ppo"], None, "ppo"),
        ("cross_entropy", {"beta": 1}, "'beta' for cross_entropy; it has no keys"),
        ("dro", {"bta": 1}, "its keys: beta; did you mean 'beta'"),
        ("dro", {"beta": "1"}, "'1'"),
        ("dro", {"beta": math.nan}, "nan"),
        ("dro", {"beta": None}, "None"),
        ("ppo", {"clip_low_threshold": 2.0}, "at most clip_high_threshold, got 2.0 and 1.2"),
    ],
)
def test_unknown_losses_and_keys_are_named(loss_fn: Any, config: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_loss(loss_fn, config)


def test_datums_are_coerced() -> None:
    assert (
        check_datums([_TRAINED, Datum.coerce(_TRAINED)], "cross_entropy")
        == [Datum.coerce(_TRAINED)] * 2
    )


@pytest.mark.parametrize(
    ("inputs", "loss_fn", "says"),
    [
        ({}, "cross_entropy", "no inputs at all"),
        ({"labels": [1, 2]}, "ppo", "logprobs, advantages not among target_tokens, weights"),
        ({"target_tokens": [1, 2]}, "cross_entropy", "weights not among target_tokens"),
        ({"weights": [1, 2]}, None, "custom loss.*target_tokens"),
        ({"target_tokens": [-100, 2], "weights": [0, 1]}, "cross_entropy", "got -100.*weight 0"),
        ({"target_tokens": [1, 2], "weights": [math.nan, 1]}, "cross_entropy", "weights.*nan"),
        ({"labels": [1]}, "cross_entropy", "labels must have shape"),
    ],
)
def test_a_bad_datum_is_named_by_its_index(inputs: Any, loss_fn: Any, says: str) -> None:
    good = {
        "target_tokens": [1, 2],
        "weights": [1, 1],
        "logprobs": [-1, -1],
        "advantages": [1, 1],
    }
    batch = [Datum([5, 6], good), {"model_input": [5, 6], "loss_fn_inputs": inputs}]
    with pytest.raises(DataError, match=rf"datums\[1\].*{says}"):
        check_datums(batch, loss_fn)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="at least one datum"):
        check_datums([], "cross_entropy")
    empty = {"model_input": [], "loss_fn_inputs": {"target_tokens": [], "weights": []}}
    with pytest.raises(DataError, match=r"datums\[0\].*at least one token"):
        check_datums([empty], "cross_entropy")
