"""What this server lets clients ask for: names of models, and how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .state import Refused


@dataclass(frozen=True)
class Catalogue:
    """Names and limits.

    Args:
        models: names that clients may ask for.
        contexts: most tokens of a sequence that a model takes, where that is known.
        max_sequence: most tokens of a sequence of any model, prompt and answer together.
        max_waiting: most requests that may wait.
        max_models: most models that are open at a time.
        silent_s: seconds without a sign of a program after which its models make room for others;
            clients send one every 10 s.
        max_samplers: most sets of weights that are kept ready for drawing.
    """

    models: tuple[str, ...]
    contexts: Mapping[str, int] = field(default_factory=dict)
    max_sequence: int = 8192
    max_waiting: int = 4096
    max_models: int = 8
    silent_s: int = 120
    max_samplers: int = 4

    def check_model(self, name: str) -> None:
        """Raises: Refused, for a model that is not served."""
        if name not in self.models:
            raise Refused(f"base_model must be one of {', '.join(self.models)}, got {name!r}")

    def longest(self, model: str) -> int:
        """Most tokens of a sequence of a model."""
        return min(self.max_sequence, self.contexts.get(model, self.max_sequence))

    def check_length(self, what: str, length: int, model: str) -> None:
        """Raises: Refused, for a sequence that is too long."""
        if length > self.longest(model):
            raise Refused(f"{what} must have at most {self.longest(model)} tokens, got {length}")
