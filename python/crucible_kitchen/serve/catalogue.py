"""What this server lets clients ask for: names of models, and how much."""

from __future__ import annotations

from dataclasses import dataclass

from .state import Refused


@dataclass(frozen=True)
class Catalogue:
    """Names and limits.

    Args:
        models: names that clients may ask for.
        max_sequence: most tokens of a sequence, prompt and answer together.
        max_waiting: most requests that may wait.
        max_models: most models that are open at a time.
        silent_s: seconds without a sign of a program after which its models make room for others;
            clients send one every 10 s.
        max_samplers: most sets of weights that are kept ready for drawing.
    """

    models: tuple[str, ...]
    max_sequence: int = 8192
    max_waiting: int = 4096
    max_models: int = 8
    silent_s: int = 120
    max_samplers: int = 4

    def check_model(self, name: str) -> None:
        """Raises: Refused, for a model that is not served."""
        if name not in self.models:
            raise Refused(f"base_model must be one of {', '.join(self.models)}, got {name!r}")

    def check_length(self, what: str, length: int) -> None:
        """Raises: Refused, for a sequence that is too long."""
        if length > self.max_sequence:
            raise Refused(f"{what} must have at most {self.max_sequence} tokens, got {length}")
