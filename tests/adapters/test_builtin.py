"""Rows made from the standard library."""

from __future__ import annotations

import ast
import sys
import textwrap

import pytest

from crucible_kitchen.adapters.builtin import DatasetStore, python_docs
from crucible_kitchen.data import to_messages
from crucible_kitchen.errors import DataError
from crucible_kitchen.testing import DatasetStoreContract


class TestBuiltinDatasetStore(DatasetStoreContract):
    dataset = "builtin:python-docs"

    @pytest.fixture
    def adapter(self):
        return DatasetStore()


class TestPreferences(DatasetStoreContract):
    dataset = "builtin:python-docs-preferences"

    @pytest.fixture
    def adapter(self):
        return DatasetStore()


@pytest.fixture(scope="module")
def splits():
    store = DatasetStore()
    return {
        split: store.to_list(store.load_dataset("builtin:python-docs", split))
        for split in ("train", "validation")
    }


def test_there_are_about_1800_rows_and_a_tenth_is_held_out(splits):
    train, held_out = len(splits["train"]), len(splits["validation"])
    assert 1400 < train + held_out < 2400
    assert 0.04 < held_out / (train + held_out) < 0.2


def test_no_top_level_module_and_no_answer_is_in_both_splits(splits):
    modules, answers = (
        {split: {of(row) for row in rows} for split, rows in splits.items()}
        for of in (lambda row: row["id"].split(".")[0], lambda row: row["messages"][1]["content"])
    )
    assert modules["train"].isdisjoint(modules["validation"])
    assert answers["train"].isdisjoint(answers["validation"])


def test_rows_are_conversations_whose_prompt_does_not_hold_the_answer(splits):
    for row in splits["train"] + splits["validation"]:
        question, answer = to_messages(row)
        assert (question.role, answer.role) == ("user", "assistant")
        assert row["id"] in question.content
        source = question.content.split("```python\n")[1].removesuffix("\n```")
        if not source.startswith("@"):
            assert source.startswith(("def ", "async def "))
        assert answer.content not in " ".join(source.split()), row["id"]
        assert ast.get_docstring(ast.parse(source).body[0]) is None, row["id"]


def test_nothing_is_imported(tmp_path):
    (tmp_path / "bad.py").write_text("raise SystemExit('imported')\n" + FUNCTION)
    assert [function.qualname for function in python_docs.functions(tmp_path)] == ["f", "C.g"]
    assert "bad" not in sys.modules


FUNCTION = textwrap.dedent('''
    @decorated
    def f(x, *,
          y=1):
        """Say
        this.

        Not this.
        """
        # why
        return x\x0c
    class C:
        async def g(self):
            "That."; return 1
        def undocumented(self):
            return 2
        def empty(self):
            """Only words."""
''')


def test_the_source_keeps_all_but_the_docstring(tmp_path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("# \x0c\n" + FUNCTION)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "m.py").write_text(FUNCTION)
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    functions = list(python_docs.functions(tmp_path))
    assert {function.module for function in functions} == {"package"}
    first = functions[0]
    assert first.summary == "Say this."
    assert first.source == "@decorated\ndef f(x, *,\n      y=1):\n    # why\n    return x"


@pytest.mark.parametrize("name", ["builtin:python-doc", "python_docs"])
def test_an_unknown_name_gets_a_suggestion(name):
    with pytest.raises(DataError, match="did you mean 'python-docs'"):
        DatasetStore().load_dataset(name)


def test_preferences_are_a_function_s_own_summary_and_that_of_a_sibling(splits):
    store = DatasetStore()
    answers = {row["id"]: row["messages"][1]["content"] for rows in splits.values() for row in rows}
    owner = {answer: name for name, answer in answers.items()}
    for split, told in splits.items():
        rows = store.to_list(store.load_dataset("python-docs-preferences", split))
        prompts = {row["id"]: row["messages"][0]["content"] for row in told}
        assert 0.7 * len(told) < len(rows) < len(told)
        for row in rows:
            chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
            assert row["prompt"][0]["content"] == prompts[row["id"]]
            assert chosen == answers[row["id"]]
            sibling = owner[rejected]
            assert sibling != row["id"]
            assert sibling in prompts, "the sibling is of the same split"
            assert sibling.split(".")[0] == row["id"].split(".")[0]
        both = [sorted(row[side][0]["content"] for row in rows) for side in ("chosen", "rejected")]
        assert both[0] == both[1], "no summary is the better one by itself"
