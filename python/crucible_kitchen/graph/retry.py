"""`Retry`: how often a stage is tried, and how long to wait in between."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """Try a stage again when it fails.

    Args:
        attempts: how often it is tried at most, the first time included.
        backoff: seconds before the second attempt; doubles before each further one.
        on: class, or tuple of classes, of the errors worth another attempt.
        max_backoff: longest wait, seconds.
        jitter: share of the wait that is left to chance, so that many runs do not come back at
            the same moment; 0.1 means up to 10 % longer.
    """

    attempts: int
    backoff: float = 0.0
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    max_backoff: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        if (
            not isinstance(self.attempts, int)
            or isinstance(self.attempts, bool)
            or self.attempts < 1
        ):
            raise ValueError(f"Retry: attempts must be an int of at least 1, got {self.attempts!r}")
        for name in ("backoff", "max_backoff", "jitter"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not value >= 0:
                raise ValueError(f"Retry: {name} must be a number of at least 0, got {value!r}")
        if not all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
            raise ValueError(
                f"Retry: on must be a class of Exception or a tuple of them, got {self.on!r}"
            )

    def wait(self, attempt: int, chance: float) -> float:
        """Seconds to wait after a failed attempt.

        Args:
            attempt: the one that failed, counted from 1.
            chance: uniform in [0, 1).
        """
        return min(self.backoff * 2.0 ** min(attempt - 1, 62), self.max_backoff) * (
            1 + self.jitter * chance
        )
