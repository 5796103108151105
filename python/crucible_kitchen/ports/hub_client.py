"""The `hub_client` port: models and data sets that others published."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from crucible_kitchen.errors import PortError

from .base import Port

# Hubs keep the same weights in several formats; one of them is enough.
_WEIGHTS = (".safetensors", ".gguf")
_WITHOUT_WEIGHTS = ("*.json", "*.txt", "*.model", "*.jinja")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class HubClient(Port):
    """Fetches from a hub into a local cache, and publishes to it."""

    name: ClassVar[str] = "hub_client"
    concurrent: ClassVar[bool] = True

    @abstractmethod
    def download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        """Fetch one file, or find it in the cache.

        Returns:
            Its path on this machine.
        Raises:
            PortError: no such repository or file, or the hub cannot be reached.
        """

    @abstractmethod
    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: Sequence[str] | None = None,
    ) -> str:
        """Fetch a repository's files, or only those that match one of `allow_patterns`.

        Returns:
            The folder on this machine that holds them.
        Raises:
            PortError: no such repository, or the hub cannot be reached.
        """

    @abstractmethod
    def list_files(self, repo_id: str) -> list[str]:
        """The names of a repository's files, sorted.

        Raises:
            PortError: no such repository, or the hub cannot be reached.
        """

    def snapshot_model(self, name: str) -> str:
        """Fetch a language model: its configuration, its tokenizer, its weights in one format.

        Args:
            name: what a user calls the model; no file of that name is on this machine.
        Returns:
            The folder on this machine that holds it.
        Raises:
            PortError: that cannot be a name, there is no such model, or the hub cannot be reached.
        """
        if not _NAME.fullmatch(name):
            raise PortError(
                f"model: must be a folder, a .gguf file, or a hub's NAME or OWNER/NAME, got "
                f"{name!r}; nothing is there on this machine"
            )
        files = self.list_files(name)
        weights = next((s for s in _WEIGHTS if any(file.endswith(s) for file in files)), None)
        patterns = (*_WITHOUT_WEIGHTS, *(() if weights is None else (f"*{weights}",)))
        return self.snapshot(name, allow_patterns=patterns)

    @abstractmethod
    def upload(self, repo_id: str, path: str, *, path_in_repo: str | None = None) -> str:
        """Publish a local file or folder.

        Args:
            path_in_repo: where it goes; by default a file's own name, and a folder's files at the
                top.
        Returns:
            Where it can be found.
        Raises:
            PortError: there is nothing at `path`, or the hub refuses it.
        """
