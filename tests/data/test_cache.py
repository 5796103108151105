"""The cache's folders are whole or absent, and made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from crucible_kitchen.data import cache_dir, cached_folder


def test_where_the_cache_is(monkeypatch):
    monkeypatch.setenv("HOME", "/home/cook")
    monkeypatch.setenv("CRUCIBLE_CACHE", "~/mine")
    monkeypatch.setenv("XDG_CACHE_HOME", "/shared")
    assert cache_dir() == Path("/home/cook/mine")
    monkeypatch.delenv("CRUCIBLE_CACHE")
    assert cache_dir() == Path("/shared/crucible-kitchen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/cook/.cache/crucible-kitchen")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path))
    return tmp_path


def test_a_folder_is_built_once():
    built = []

    def build(folder):
        built.append(folder)
        (folder / "file").write_text("content")

    first, second = (cached_folder("kind", "name", build=build) for _ in range(2))
    assert first == second == cache_dir() / "kind" / "name"
    assert (first / "file").read_text() == "content"
    assert len(built) == 1


def test_a_build_that_fails_leaves_nothing_and_can_be_tried_again(cache):
    def fail(folder):
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cached_folder("name", build=fail)
    assert [path.name for path in cache.iterdir()] == [".name.lock"]
    assert list(cached_folder("name", build=lambda folder: None).iterdir()) == []


def test_what_a_killed_process_left_is_removed(cache):
    (cache / ".name.0123.partial").mkdir()
    (cache / ".name.0123.partial" / "half").write_text("half")
    cached_folder("name", build=lambda folder: None)
    assert sorted(path.name for path in cache.iterdir()) == [".name.lock", "name"]


ASK = """
import time
from crucible_kitchen.data import cache_dir, cached_folder

def slowly(folder):
    time.sleep(0.3)
    (folder / "file").write_text("content")
    with (cache_dir() / "builds").open("a") as log:
        log.write("x")

print((cached_folder("name", build=slowly) / "file").read_text())
"""


def test_of_two_processes_one_builds(cache):
    ask = [sys.executable, "-c", ASK]
    both = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["content\n"] * 2
    assert (cache / "builds").read_text() == "x"
