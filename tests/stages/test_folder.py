"""Files of a run's folder: whole, or as they were."""

from __future__ import annotations

import os

import pytest

from crucible_kitchen.errors import CrucibleError
from crucible_kitchen.stages import _folder


def test_a_file_is_written_with_its_folder(tmp_path) -> None:
    _folder.write_json(tmp_path / "new" / "a.json", {"ü": 1})
    assert (tmp_path / "new" / "a.json").read_text() == '{\n  "ü": 1\n}\n'
    assert os.listdir(tmp_path / "new") == ["a.json"]


def test_a_full_disk_leaves_the_old_file_and_no_part_of_the_new(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CrucibleError, match=r"could not write .*a\.txt: No space left on device"):
        _folder.write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]
