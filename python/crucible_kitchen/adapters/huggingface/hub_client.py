"""Models and data sets on the Hugging Face hub, through `huggingface_hub`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import huggingface_hub
from huggingface_hub import errors

from crucible_kitchen import ports
from crucible_kitchen.errors import PortError

from .refusals import told

# What the HTTP library below raises when there is no answer at all; its name changes.
_NO_ANSWER: Final[type[Exception]] = errors.HfHubHTTPError.__bases__[0]
# Some errors have no common base, and some exist only in newer versions.
_FOREIGN: Final[tuple[type[Exception], ...]] = (
    OSError,
    ValueError,
    _NO_ANSWER,
    errors.EntryNotFoundError,
    errors.CacheNotFound,
    *(
        getattr(errors, name)
        for name in ("CachedRepoTreeNotFoundError", "RevisionResolutionError", "XetDownloadError")
        if hasattr(errors, name)
    ),
)
_PATIENCE_S: Final = 30.0


class HubClient(ports.HubClient):
    """The hub that ``HF_ENDPOINT`` names, with the token and the cache of `huggingface_hub`.

    With ``HF_HUB_OFFLINE=1``, or when the hub cannot be reached, what is in the cache is used.

    Args:
        cache_dir: where fetched files go; by default the cache that all of Hugging Face's
            libraries share.
        repo_type: ``model``, ``dataset`` or ``space``.
        private: whether a repository that `upload` has to create is private.
    """

    def __init__(
        self, cache_dir: str | None = None, repo_type: str = "model", private: bool = True
    ) -> None:
        self._cache_dir, self._repo_type, self._private = cache_dir, repo_type, private

    def download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        """Fetch one file, or find it in the cache."""
        with _speaking_our_errors(f"fetch {filename} of {repo_id}"):
            return huggingface_hub.hf_hub_download(
                repo_id,
                filename,
                revision=revision,
                repo_type=self._repo_type,
                cache_dir=self._cache_dir,
            )

    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: Sequence[str] | None = None,
    ) -> str:
        """Fetch a repository's files, or those that match a pattern, or find them in the cache."""
        with _speaking_our_errors(f"fetch {repo_id}"):
            return huggingface_hub.snapshot_download(
                repo_id,
                revision=revision,
                repo_type=self._repo_type,
                cache_dir=self._cache_dir,
                allow_patterns=None if allow_patterns is None else list(allow_patterns),
            )

    def list_files(self, repo_id: str) -> list[str]:
        """The names of a repository's files; offline, of those that are in the cache."""
        with _speaking_our_errors(f"list the files of {repo_id}"):
            try:
                # Not `list_repo_files`: that asks five times more, for half a minute, before it
                # says that there is no network.
                about = huggingface_hub.HfApi().repo_info(
                    repo_id, repo_type=self._repo_type, timeout=_PATIENCE_S
                )
                # Of the kinds of repository, kernels have no list; `repo_type` never asks for one.
                return sorted(file.rfilename for file in getattr(about, "siblings", None) or ())
            except errors.HfHubHTTPError:
                raise
            except (ConnectionError, TimeoutError, _NO_ANSWER):
                cached = self._cached_files(repo_id)
                if not cached:
                    raise
                return cached

    def upload(self, repo_id: str, path: str, *, path_in_repo: str | None = None) -> str:
        """Publish a file or folder as one commit; a repository that is not there is created."""
        source = Path(path)
        if not source.exists():
            raise PortError(f"hub_client: nothing to upload at {path}")
        api = huggingface_hub.HfApi()
        with _speaking_our_errors(f"upload {path} to {repo_id}"):
            api.create_repo(
                repo_id, repo_type=self._repo_type, private=self._private, exist_ok=True
            )
            if source.is_file():
                commit = api.upload_file(
                    path_or_fileobj=source,
                    path_in_repo=path_in_repo or source.name,
                    repo_id=repo_id,
                    repo_type=self._repo_type,
                )
            else:
                commit = api.upload_folder(
                    folder_path=source,
                    path_in_repo=path_in_repo,
                    repo_id=repo_id,
                    repo_type=self._repo_type,
                )
        return str(commit.commit_url)

    def _cached_files(self, repo_id: str) -> list[str]:
        cache = self._cache_dir or huggingface_hub.constants.HF_HUB_CACHE
        if not os.path.isdir(cache):
            return []
        for repository in huggingface_hub.scan_cache_dir(cache).repos:
            if (repository.repo_id, repository.repo_type) == (repo_id, self._repo_type):
                newest = max(
                    repository.revisions, key=lambda r: ("main" in r.refs, r.last_modified)
                )
                top = newest.snapshot_path
                return sorted(f.file_path.relative_to(top).as_posix() for f in newest.files)
        return []


@contextmanager
def _speaking_our_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except errors.HFValidationError:
        raise PortError(
            f"hub_client: could not {doing}: a hub's names are NAME or OWNER/NAME, of letters, "
            "digits, '-', '_' and '.'"
        ) from None
    except (ConnectionError, TimeoutError, _NO_ANSWER) as error:
        if isinstance(error, errors.HfHubHTTPError):
            raise _in_our_words(doing, error) from None
        raise PortError(
            f"hub_client: could not {doing}: it is not in the cache, and the hub gave no answer "
            f"({told(error)})"
        ) from None
    except _FOREIGN as error:
        raise _in_our_words(doing, error) from None


def _in_our_words(doing: str, error: Exception) -> PortError:
    # The original holds the request with its headers, the token among them: it is not kept.
    return PortError(f"hub_client: could not {doing}: {told(error)}")
