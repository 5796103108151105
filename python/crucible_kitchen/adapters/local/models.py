"""From what a user calls a model to a folder that transformers loads."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from crucible_kitchen.adapters.disk import speaking_our_errors
from crucible_kitchen.adapters.local import gguf
from crucible_kitchen.data.cache import cached_folder
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.ports import HubClient


def prepare_model(model: str | os.PathLike[str], hub_client: HubClient | None = None) -> Path:
    """The folder of a model: config, tokenizer and safetensors.

    A GGUF file is converted once, into the cache, under the hash of its content.

    Args:
        model: a folder of safetensors, a GGUF file, a folder with one GGUF file, or a hub's name.
        hub_client: fetches a name; without one `model` must be on this machine.

    Raises:
        ConfigError: there is no such model, or what is there is not a model.
        PortError: the hub cannot give it, or its file cannot be read or converted.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return _converted(path)
    if path.is_dir():
        return _folder(path)
    if hub_client is None:
        raise ConfigError(
            f"model: must be a folder or a .gguf file on this machine, or a name with a hub_client "
            f"to fetch it, got {os.fspath(model)!r}; nothing is there"
        )
    return _folder(Path(hub_client.snapshot_model(os.fspath(model))))


def longest_sequence(folder: Path) -> int | None:
    """The ``max_position_embeddings`` of a model's folder, by whatever name its kind has for it.

    Raises:
        PortError: its ``config.json`` cannot be read.
    """
    try:
        config: Any = AutoConfig.from_pretrained(os.fspath(folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise PortError(f"local model: could not load model {folder}: {error}") from error
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


def _folder(folder: Path) -> Path:
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return folder
    quantised = sorted(folder.glob("*.gguf"))
    if len(quantised) == 1:
        return _converted(quantised[0])
    if quantised:
        names = ", ".join(path.name for path in quantised)
        raise ConfigError(f"model: {folder} has several GGUF files, name one of them: {names}")
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"model: {folder} holds LoRA weights, not a model; name the model they belong to, and "
            "give this folder as checkpoint_path"
        )
    raise ConfigError(
        f"model: {folder} must hold config.json with *.safetensors, or one .gguf file; it has "
        f"{', '.join(sorted(path.name for path in folder.iterdir())[:8]) or 'nothing'}"
    )


def _converted(file: Path) -> Path:
    if file.suffix != ".gguf":
        raise ConfigError(f"model: a model in one file must be .gguf, got {file}")
    with speaking_our_errors("local model", f"convert {file}"):
        name = f"{file.stem}-{_hash(file)[:16]}-{gguf.FORMAT}"
        return cached_folder("models", name, build=lambda folder: gguf.convert(file, folder))


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while piece := source.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
