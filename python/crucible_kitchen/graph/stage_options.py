"""Options of a stage: which there are, and what is wrong with those that were given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from crucible_kitchen.errors import did_you_mean

from .retry import Retry
from .signature import Defect

OPTIONS = ("name", "after", "retry", "timeout", "executor", "cache")
EXECUTORS = ("inline", "thread", "process")
NAME_RULE = "letters, digits, '_' and '-'"
NAME_ADVICE = "it is part of paths, such as sft/epochs/optim_step"


def check_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], list[Defect]]:
    """Options of a stage that can be used, and what is wrong with the others."""
    good: dict[str, Any] = {}
    defects: list[Defect] = []
    for name, value in options.items():
        if name not in OPTIONS:
            defects.append(
                Defect("unknown-option", f"unknown option {name!r}", did_you_mean(name, OPTIONS))
            )
        elif name == "name" and not (isinstance(value, str) and is_name(value)):
            message = f"name must be {NAME_RULE}, got {value!r}"
            defects.append(Defect("bad-option", message, NAME_ADVICE))
        elif name == "timeout" and value is not None and not _positive(value):
            message = f"timeout must be a number of seconds above 0, got {value!r}"
            defects.append(Defect("bad-option", message, "leave it out for no limit"))
        elif name == "after":
            names = (value,) if isinstance(value, str) else value
            if isinstance(names, (tuple, list)) and all(isinstance(one, str) for one in names):
                good[name] = tuple(names)
            else:
                message = f"after must be a name or a list of names, got {value!r}"
                defects.append(Defect("bad-option", message, "name nodes of the same body"))
        elif name == "cache" and not isinstance(value, bool):
            message = f"cache must be True or False, got {value!r}"
            defects.append(Defect("bad-option", message, "pass cache=True, or leave it out"))
        elif name == "executor" and value is not None and value not in EXECUTORS:
            message = f"executor must be one of {', '.join(map(repr, EXECUTORS))}, got {value!r}"
            defects.append(Defect("bad-option", message, did_you_mean(str(value), EXECUTORS)))
        elif name == "retry" and value is not None and not isinstance(value, Retry):
            try:
                good[name] = Retry(value)
            except ValueError as error:
                advice = "pass how often it is tried, or a Retry"
                defects.append(Defect("bad-option", f"retry: {error}", advice))
        else:
            good[name] = value
    return good, defects


def _positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0


def is_name(text: str) -> bool:
    """Whether a text can be part of a path."""
    return re.fullmatch(r"[\w-]+", text) is not None
