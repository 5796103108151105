"""Adapters for the ports that a user of a recipe left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from crucible_kitchen.bootstrap.table import hub_of, load_adapter, load_by_name
from crucible_kitchen.recipes import Recipe

_FILES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".feather")


def with_defaults(
    recipe: type[Recipe],
    config: Any,
    given: dict[str, Any],
    run_dir: Path | None,
    owned: list[Any],
) -> dict[str, Any]:
    """The user's adapters, and ours for the ports of the recipe that were left out.

    A model's hub and the completer that shares its weights come by default only with our own
    training client: another one has its own names and its own models.
    """
    chosen = dict(given)
    ports = {*recipe.required_ports, *recipe.optional_ports}
    if "dataset_store" in ports and "dataset_store" not in chosen:
        chosen["dataset_store"] = default_dataset_store(config.dataset, owned)
    if "metrics_store" in ports and "metrics_store" not in chosen and run_dir is not None:
        chosen["metrics_store"] = (load_adapter("metrics_store", "files"), {"path": str(run_dir)})
    if "training_client" in ports and "training_client" not in chosen:
        client = load_adapter("training_client", "local")()
        owned.append(client)
        chosen["training_client"] = client
        if "hub_client" in ports and "hub_client" not in chosen:
            chosen["hub_client"] = load_adapter("hub_client", hub_of(config.model))
        if "completer" in ports and "completer" not in chosen:
            completer = load_adapter("completer", "local")(training_client=client)
            owned.append(completer)
            chosen["completer"] = completer
    return chosen


def default_dataset_store(dataset: Any, owned: list[Any]) -> Any:
    """The store of a data set, or one over the stores of a mixture."""
    names = [dataset] if isinstance(dataset, str) else [part.name for part in dataset]
    systems = {name: store_of(name) for name in names}
    made = {system: load_adapter("dataset_store", system) for system in systems.values()}
    if len(made) == 1:
        return next(iter(made.values()))
    stores = {system: store() for system, store in made.items()}
    owned += stores.values()
    return load_by_name()({name: stores[system] for name, system in systems.items()})


def store_of(dataset: str) -> str:
    if dataset.startswith("builtin:"):
        return "builtin"
    path = Path(dataset).expanduser()
    # ``owner/name`` with nothing of that name here, and no ending of a file.
    hub = re.fullmatch(r"[\w-]+/[\w.-]+", dataset) and not path.exists()
    return "huggingface" if hub and path.suffix not in _FILES else "files"
