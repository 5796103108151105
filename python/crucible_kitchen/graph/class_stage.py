"""`Stage`: a stage as a class. It is pydantic's, so it loads when it is first asked for."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from crucible_kitchen.context import Context
from crucible_kitchen.errors import ConfigError, did_you_mean

from .stage import ClassStage, StageNode, class_node


class Stage(ClassStage, BaseModel):
    """A stage as a class: options are pydantic fields, `execute` makes the next context.

    Without `writes` it is opaque: it may write any key, and is checked only when it has run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    reads: ClassVar[Sequence[str] | None] = None
    """Keys that must be there before it runs."""
    writes: ClassVar[Sequence[str] | None] = None
    """Keys it may write, and all that it may write."""
    ports: ClassVar[Sequence[str]] = ()
    """Names of the ports it uses."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") != cls.__module__:
            frame = frame.f_back
        cls.declared_at = f"{frame.f_code.co_filename}:{frame.f_lineno}"

    def __init__(self, **options: Any) -> None:
        name, fields = type(self).__name__, type(self).model_fields
        unknown = [option for option in options if option not in fields]
        if unknown:
            raise ConfigError(
                f"{name}: no option {unknown[0]!r}; {did_you_mean(unknown[0], fields)}"
            )
        try:
            super().__init__(**options)
        except ValidationError as error:
            # Without the values: they may be secrets.
            said = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ConfigError(f"{name}: {'; '.join(said)}") from None

    @abstractmethod
    def execute(self, ctx: Context) -> Context:
        """Do the work and return the context with what it gave; may be ``async``."""

    def validate(self, ctx: Context) -> None:  # type: ignore[override]
        """Raise if it cannot run; called before `execute`."""

    def rollback(self, ctx: Context, error: BaseException) -> Context:
        """Undo what a failed `execute` left behind; the error goes on afterwards."""
        return ctx

    def with_(self, **options: Any) -> StageNode:
        """This stage with options of its place in a workflow, see `StageNode.with_`."""
        return class_node(self).with_(**options)
