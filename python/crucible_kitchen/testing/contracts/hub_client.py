"""The contract of `HubClient`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from crucible_kitchen.errors import PortError
from crucible_kitchen.ports import HubClient

from .base import PortContract


class HubClientContract(PortContract):
    """The hub has a repository `repo_id` with a file `filename`, and others.

    `uploads` is False for a hub that nobody can publish to: its `upload` must be a `PortError`.
    """

    port = HubClient
    repo_id: ClassVar[str] = "org/model"
    filename: ClassVar[str] = "config.json"
    uploads: ClassVar[bool] = True

    def test_downloads_a_file(self, adapter: HubClient) -> None:
        path = Path(adapter.download(self.repo_id, self.filename))
        assert path.is_file()
        assert path.stat().st_size > 0
        assert adapter.download(self.repo_id, self.filename) == str(path)

    def test_lists_files_in_order(self, adapter: HubClient) -> None:
        files = adapter.list_files(self.repo_id)
        assert self.filename in files
        assert len(files) >= 2
        assert files == sorted(files)

    def test_a_snapshot_has_every_file(self, adapter: HubClient) -> None:
        folder = Path(adapter.snapshot(self.repo_id))
        for name in adapter.list_files(self.repo_id):
            assert (folder / name).is_file()

    def test_a_snapshot_can_be_a_part(self, adapter: HubClient) -> None:
        folder = Path(adapter.snapshot(self.repo_id, allow_patterns=[self.filename]))
        assert (folder / self.filename).is_file()

    def test_names_what_is_not_there(self, adapter: HubClient) -> None:
        with pytest.raises(PortError, match="no-such-file"):
            adapter.download(self.repo_id, "no-such-file")
        for attempt in (adapter.list_files, adapter.snapshot):
            with pytest.raises(PortError, match="nobody/nothing"):
                attempt("nobody/nothing")

    def test_publishes_a_folder(self, adapter: HubClient, tmp_path: Path) -> None:
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "weights.bin").write_bytes(b"\x00\x01")
        if not self.uploads:
            with pytest.raises(PortError):
                adapter.upload("me/mine", str(tmp_path))
            return
        assert adapter.upload("me/mine", str(tmp_path))
        fetched = Path(adapter.download("me/mine", "sub/weights.bin"))
        assert fetched.read_bytes() == b"\x00\x01"
        with pytest.raises(PortError, match="nothing-here"):
            adapter.upload("me/mine", str(tmp_path / "nothing-here"))
