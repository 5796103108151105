"""When a run writes down where it stands: after every stage, every so many, or every so often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from crucible_kitchen.errors import ConfigError


class Pace(Protocol):
    """How far a run has come since a checkpoint.

    Args:
        stages: finished since then.
        seconds: passed since then.
    """

    @property
    def stages(self) -> int: ...

    @property
    def seconds(self) -> float: ...


@dataclass(frozen=True)
class Every:
    """A checkpoint after every so many stages.

    Args:
        stages: at least 1; 1 means after each stage.
        fsync: wait until each checkpoint is on the disk, which a power cut needs and `kill -9`
            does not.
    """

    stages: int
    fsync: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.stages, int) or isinstance(self.stages, bool) or self.stages < 1:
            raise ConfigError(f"Every: stages must be an int of at least 1, got {self.stages!r}")

    def due(self, since: Pace) -> bool:
        """Whether it is time for a checkpoint."""
        return since.stages >= self.stages


@dataclass(frozen=True)
class Seconds:
    """A checkpoint after the first stage that ends so many seconds after the last one.

    Args:
        seconds: at least 0.
        fsync: see `Every`.
    """

    seconds: float
    fsync: bool = True

    def __post_init__(self) -> None:
        number = isinstance(self.seconds, (int, float)) and not isinstance(self.seconds, bool)
        if not number or not self.seconds >= 0:
            raise ConfigError(f"Seconds: seconds must be at least 0, got {self.seconds!r}")

    def due(self, since: Pace) -> bool:
        """Whether it is time for a checkpoint."""
        return since.seconds >= self.seconds


Policy = Every | Seconds
STAGE = Every(1, fsync=False)


def as_policy(given: Any) -> Policy | None:
    """What a user passes as ``checkpoint``: None, ``"stage"``, `Every` or `Seconds`.

    Raises:
        ConfigError: it is none of these.
    """
    if given is None or isinstance(given, (Every, Seconds)):
        return given
    if given == "stage":
        return STAGE
    raise ConfigError(
        f'checkpoint must be "stage", Every(stages), Seconds(seconds) or None, got {given!r}'
    )
