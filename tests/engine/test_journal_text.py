"""The journal's own encoder writes what `json` writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.engine import journal

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)


@given(VALUES)
def test_it_writes_what_json_writes(value: Any) -> None:
    text = journal._encode(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert json.loads(text) == value


def test_it_refuses_what_json_refuses() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        journal._encode({"a": object()})


def test_without_the_encoder_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json.encoder, "c_make_encoder", None)
    assert journal._encoder()({"a": [1, "ü", None]}) == '{"a":[1,"\\u00fc",null]}'
