"""A hub in memory, which writes what is fetched to a folder of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from crucible_kitchen import ports
from crucible_kitchen.adapters.blobs import checked_path
from crucible_kitchen.adapters.disk import speaking_our_errors, write_atomically
from crucible_kitchen.errors import PortError, did_you_mean


class HubClient(ports.HubClient):
    """Serves the repositories it was given and those that were uploaded to it.

    Args:
        repositories: repository -> file name -> content; None has any that is asked for, each with
            an empty ``config.json``.
        cache_dir: where fetched files go; by default a temporary folder that `close` removes.
    """

    def __init__(
        self,
        repositories: Mapping[str, Mapping[str, bytes]] | None = None,
        cache_dir: str | None = None,
    ) -> None:
        self._any = repositories is None
        self._repositories = {name: dict(files) for name, files in (repositories or {}).items()}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._cache_dir = cache_dir

    def download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        """Fetch one file; every revision is the present one."""
        files = self._files(repo_id)
        if filename not in files:
            raise PortError(
                f"hub_client: {repo_id} has no file {filename!r}; {did_you_mean(filename, files)}"
            )
        return str(self._fetch(repo_id, filename))

    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: Sequence[str] | None = None,
    ) -> str:
        """Fetch all files, or those that match a pattern."""
        for filename in self._files(repo_id):
            if allow_patterns is None or any(fnmatch(filename, p) for p in allow_patterns):
                self._fetch(repo_id, filename)
        folder = self._folder(repo_id)
        with speaking_our_errors("hub_client", f"fetch {repo_id}"):
            folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def list_files(self, repo_id: str) -> list[str]:
        """The names of a repository's files, sorted."""
        return sorted(self._files(repo_id))

    def upload(self, repo_id: str, path: str, *, path_in_repo: str | None = None) -> str:
        """Keep a copy of a file or folder in memory."""
        source = Path(path)
        if not source.exists():
            raise PortError(f"hub_client: nothing to upload at {path}")
        with speaking_our_errors("hub_client", f"upload {path}"):
            if source.is_file():
                found = {path_in_repo or source.name: source.read_bytes()}
            else:
                top = f"{path_in_repo}/" if path_in_repo else ""
                inside = [file for file in source.rglob("*") if file.is_file()]
                found = {
                    top + file.relative_to(source).as_posix(): file.read_bytes() for file in inside
                }
        self._repositories.setdefault(repo_id, {}).update(found)
        return f"noop://{repo_id}"

    def close(self) -> None:
        """Remove the temporary folder."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _files(self, repo_id: str) -> Mapping[str, bytes]:
        if self._any:
            self._repositories.setdefault(repo_id, {"config.json": b"{}"})
        try:
            return self._repositories[repo_id]
        except KeyError:
            advice = did_you_mean(repo_id, self._repositories) or "it holds none"
            raise PortError(f"hub_client: no repository {repo_id!r}; {advice}") from None

    def _folder(self, repo_id: str) -> Path:
        if self._cache_dir is not None:
            return Path(self._cache_dir) / checked_path(repo_id)
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="crucible-noop-hub-")
        return Path(self._temporary.name) / checked_path(repo_id)

    def _fetch(self, repo_id: str, filename: str) -> Path:
        target = self._folder(repo_id) / checked_path(filename)
        with speaking_our_errors("hub_client", f"fetch {repo_id}/{filename}"):
            write_atomically(target, self._repositories[repo_id][filename])
        return target
