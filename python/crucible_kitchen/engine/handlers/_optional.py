"""Imports what only some handlers need."""

from __future__ import annotations

import importlib
from types import ModuleType

from crucible_kitchen.errors import ConfigError


def library(module: str, *, extra: str) -> ModuleType:
    """Import a module when a handler first needs it.

    Raises:
        ConfigError: it is not installed; the message names the extra that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"handlers: this one needs {module.partition('.')[0]}, which cannot be imported "
            f"({error}); install it by: pip install 'crucible-kitchen[{extra}]'"
        ) from error
