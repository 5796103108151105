"""Data sets in files: every format, every way a file can be bad, and rows held back."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters.files import DatasetStore
from crucible_kitchen.errors import ConfigError, DataError, PortError

ROWS = [
    {"prompt": "a\u2028b", "completion": "1"},
    {"prompt": 'say "x",\nplease', "completion": "2"},
]


@pytest.mark.parametrize("kind", ["file", "stream"])
@pytest.mark.parametrize("suffix", [".arrow", ".feather"])
def test_arrow_files_and_streams_are_read(tmp_path, kind, suffix):
    pyarrow = pytest.importorskip("pyarrow")
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 1}, {"messages": [], "n": 2}]
    table = pyarrow.Table.from_pylist(rows)
    path = tmp_path / f"rows{suffix}"
    make = pyarrow.ipc.new_file if kind == "file" else pyarrow.ipc.new_stream
    with make(str(path), table.schema) as writer:
        writer.write_table(table)
    store = DatasetStore()
    assert store.to_list(store.load_dataset(str(path))) == rows
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match="must be an Arrow file"):
        store.load_dataset(str(path))


def _load(path: Path, **options: Any) -> list[dict[str, Any]]:
    store = DatasetStore()
    return store.to_list(store.load_dataset(str(path), **options))


def test_jsonl_json_and_csv_give_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    (tmp_path / "a.jsonl").write_text("\ufeff" + lines + "\n\n", encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    text = 'prompt,completion\r\na\u2028b,1\r\n\r\n"say ""x"",\nplease",2\r\n'
    (tmp_path / "a.CSV").write_bytes(text.encode())
    for name in ("a.jsonl", "a.json", "a.CSV"):
        assert _load(tmp_path / name) == ROWS


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"prompt": "a", "turns": [{"role": "user"}]}, {"prompt": "b", "turns": []}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert _load(tmp_path / "a.parquet") == rows
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"b\.parquet must be a Parquet file"):
        _load(tmp_path / "b.parquet")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_fields_that_only_other_rows_have_are_not_there(tmp_path: Path, suffix: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"messages": [{"role": "user", "content": "a"}], "note": None},
        {"messages": [{"role": "assistant", "calls": [{"f": {"x": 1}}, {"f": {"y": [None]}}]}]},
    ]
    table = pyarrow.Table.from_pylist(rows)
    path = tmp_path / f"a.{suffix}"
    if suffix == "parquet":
        parquet.write_table(table, path)
    else:
        with pyarrow.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    assert _load(path) == [rows[0], {**rows[1], "note": None}]


def test_parquet_without_its_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(PortError, match=r"crucible-kitchen\[parquet\]"):
        _load(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"x": 1}\n{"x": \n', "a.jsonl, line 2"),
        ("a.jsonl", '{"x": 1}\n\n[1]\n', "a.jsonl, line 3 must be an object, got a list"),
        ("a.jsonl", "\n\n", "at least one row"),
        ("a.jsonl", "[" * 100_000, "line 1"),
        ("a.json", "[]", "at least one row"),
        ("a.json", '{"x": 1}', r"must hold a list of rows, got an object; .*\.jsonl"),
        ("a.json", '[{"x": 1}, "y"]', "row 2 must be an object, got text"),
        ("a.json", "", "a.json"),
        ("a.csv", "a,b\n1,2\n3\n", r"row 2 \(line 3\) must have 2 values, got 1"),
        ("a.csv", "a,a\n1,2\n", "columns must differ"),
        ("a.csv", 'a,b\n"1,2\n', "row 1"),
        ("a.csv", "a,b\n", "at least one row"),
        ("a.csv", "", "at least one row"),
        ("a.txt", "hello", r"\.jsonl, \.json, \.csv, \.parquet, \.arrow, \.feather, got '\.txt'"),
    ],
)
def test_a_bad_file_is_named_with_its_row(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=says):
        _load(tmp_path / name)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"x": "\xff"}\n')
    with pytest.raises(DataError, match="UTF-8"):
        _load(tmp_path / "a.jsonl")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file or folder at .*missing"):
        _load(tmp_path / "missing.jsonl")
    with pytest.raises(DataError, match=r"such as train\.jsonl"):
        _load(tmp_path)


def test_a_folder_has_a_file_a_split_in_any_format(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"x": "1"}\n')
    (tmp_path / "validation.csv").write_text("x\n2\n")
    (tmp_path / "README.md").write_text("not data")
    store = DatasetStore(str(tmp_path.parent))
    handle = store.load_dataset(tmp_path.name)
    assert store.to_list(handle) == [{"x": "1"}]
    assert store.to_list(store.get_split(handle, "validation")) == [{"x": "2"}]
    with pytest.raises(DataError, match="it has train, validation"):
        store.get_split(handle, "test")
    (tmp_path / "train.json").write_text("[]")
    with pytest.raises(DataError, match="split 'train' must have one file"):
        store.load_dataset(tmp_path.name)


def test_held_out_rows_are_the_same_each_time_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"i": i}) + "\n" for i in range(40)))
    options: dict[str, Any] = {"validation_fraction": 0.25}
    train, held = (_load(path, split=split, **options) for split in ("train", "validation"))
    assert (len(train), len(held)) == (30, 10)
    assert sorted(row["i"] for row in train + held) == list(range(40))
    assert train == sorted(train, key=lambda row: row["i"])
    assert held != [{"i": i} for i in range(30, 40)], "an ordered file must not be cut at its end"
    assert _load(path, split="validation", **options) == held
    assert _load(path, split="validation", split_seed=1, **options) != held


def test_holding_out_never_takes_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"i": 0}\n{"i": 1}\n')
    for fraction in (0.001, 0.999):
        for split in ("train", "validation"):
            assert len(_load(path, split=split, validation_fraction=fraction)) == 1
    path.write_text('{"i": 0}\n')
    with pytest.raises(DataError, match="at least two rows, got 1"):
        _load(path, validation_fraction=0.5)
    with pytest.raises(DataError, match=r"validation_fraction=0\.1"):
        _load(path, split="validation")


def test_holding_out_is_refused_where_it_makes_no_sense(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"i": 0}\n{"i": 1}\n')
    for wrong in (0.0, 1.0, 2, "0.1"):
        with pytest.raises(ConfigError, match=r"in \(0, 1\)"):
            _load(tmp_path, validation_fraction=wrong)
    (tmp_path / "validation.jsonl").write_text('{"i": 2}\n')
    with pytest.raises(ConfigError, match="must be absent"):
        _load(tmp_path, validation_fraction=0.5)


def test_an_iterator_refuses_the_state_of_another(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"i": 0}\n{"i": 1}\n')
    store = DatasetStore()
    batches = store.iterate(store.load_dataset(str(tmp_path / "a.jsonl")), 1)
    for state in ({"position": 1, "rows": 3}, {"position": 9, "rows": 2}, {}):
        with pytest.raises(DataError, match="2 rows"):
            batches.load_state_dict(state)
