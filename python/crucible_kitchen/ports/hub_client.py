"""The `hub_client` port: models and data sets that others published."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from .base import Port


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
