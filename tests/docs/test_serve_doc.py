"""The page on the server: its table is the SDK's, and its programs run against a server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"


def _table() -> dict[str, tuple[set[str], set[str]]]:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|(.*?)\|$", PAGE.read_text(), re.M)
    return {
        name: (set(re.findall(r"`(\w+)`", served)), set(re.findall(r"`(\w+)`", rest)))
        for name, served, rest in rows
    }


def test_the_table_names_every_public_method_of_the_sdk_once() -> None:
    tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")
    if not tinker.__version__.startswith("0.38."):
        pytest.skip(f"the page is about tinker 0.38, this is {tinker.__version__}")
    table = _table()
    assert set(table) == {"ServiceClient", "TrainingClient", "SamplingClient", "RestClient"}
    for name, (served, rest) in table.items():
        kind = getattr(tinker, name)
        public = {
            one
            for one in dir(kind)
            if one[0] != "_" and not one.endswith("_async") and callable(getattr(kind, one, None))
        }
        assert served | rest == public, name
        assert not served & rest


def test_the_page_names_the_options_of_the_command() -> None:
    from crucible_kitchen.cli import parser

    said = set(re.findall(r"`(--[\w-]+)", PAGE.read_text()))
    (commands,) = (a for a in parser()._actions if hasattr(a, "choices") and a.choices)
    known = {o for a in commands.choices["serve"]._actions for o in a.option_strings}
    assert said <= known
