"""How often things will run, as far as a configuration tells before anything has run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .blocks import Block
from .branches import Case, Switch, When
from .loops import AsyncLoop, Loop
from .signature import MISSING
from .together import FanOut, Parallel, Scope
from .values import Value
from .workflow import Workflow


@dataclass(frozen=True)
class Count:
    """How often something runs: at least `least`, at most `most`; None where nobody knows."""

    least: int = 0
    most: int | None = None

    @property
    def exact(self) -> int | None:
        """The number, where there is only one it can be."""
        return self.least if self.least == self.most else None

    def times(self, other: Count) -> Count:
        """As often as this, and each time as often as the other."""
        none = self.most == 0 or other.most == 0
        known = self.most is not None and other.most is not None
        most = 0 if none else self.most * other.most if known else None  # type: ignore[operator]
        return Count(self.least * other.least, most)

    def __str__(self) -> str:
        if self.exact is not None:
            return str(self.exact)
        if self.most is not None:
            return f"{self.least}-{self.most}"
        return f"{self.least}+" if self.least else "?"


ONCE, PERHAPS, NEVER, UNKNOWN = Count(1, 1), Count(0, 1), Count(0, 0), Count()
_OTHER = {ONCE: NEVER, PERHAPS: PERHAPS, NEVER: ONCE}


class UnknownError(Exception):
    """What a value will be is not known before the run."""


class ConfigOnly:
    """Stands for the context of a run that has not begun: it has a configuration, and no more."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def get_config(self, key: str, default: Any = None) -> Any:
        return self.config.get(key, default)

    def __getattr__(self, name: str) -> Any:
        raise UnknownError(name)


Failed = Callable[[Value, Exception], None]


class Known:
    """What the values of blocks are, where the configuration says it.

    A key of the configuration is never written, so a callable that reads nothing else gives before
    the run what it gives in it, and is called. One that uses ports is not.

    Args:
        config: of the run; a `View`, so that keys are attributes too.
        written: keys that stages write.
        anything: whether a stage may write keys that it does not declare.
        failed: told of a callable that raises.
    """

    def __init__(
        self, config: Mapping[str, Any], written: frozenset[str], anything: bool, failed: Failed
    ) -> None:
        self._config, self._written, self._anything = config, written, anything
        self._failed = failed

    def value(self, value: Value) -> Any:
        """What a value will be.

        Raises:
            UnknownError: the configuration does not say it.
        """
        if value.kind == "literal":
            return value.of
        if value.kind == "key":
            return self._read(value.of)
        signature = value.signature
        if signature.is_async or any(one.role != "context" for one in signature.injected):
            raise UnknownError(value.name)
        given = {read.param: self._read(read.key, read.default) for read in signature.reads}
        given.update((one.param, ConfigOnly(self._config)) for one in signature.injected)
        ordered = [given.pop(name) for name in signature.order]
        try:
            return value.of(*ordered, **given)
        except UnknownError:
            raise
        except Exception as error:  # the user's own callable: told, and the plan goes on
            self._failed(value, error)
            raise UnknownError(value.name) from error

    def _read(self, key: str, *default: Any) -> Any:
        if key in self._config:
            return self._config[key]
        free = key not in self._written and not self._anything
        if default and default[0] is not MISSING and free:
            return default[0]
        raise UnknownError(key)

    def inside(self, block: Block) -> dict[str, Count]:
        """How often each body of a block runs each time that the block runs, by its label."""
        if isinstance(block, AsyncLoop):
            ends = self._chosen(block.stop_when, bool) == ONCE
            return {"": NEVER if ends else UNKNOWN}
        if isinstance(block, (Loop, FanOut)):
            return {"": self._items(block)}
        if isinstance(block, When):
            yes = self._chosen(block.predicate, bool)
            return {"": yes, "otherwise": _OTHER[yes]}
        if isinstance(block, Switch):
            matches = [value for case in block.cases for value in case.matches]
            return {"": ONCE, "otherwise": self._chosen(block.on, lambda v: v not in matches)}
        if isinstance(block, (Workflow, Parallel, Scope, Case)):
            return {"": ONCE, "finally": ONCE, "on_error": PERHAPS}
        return {label: UNKNOWN for label, _ in block.regions}

    def case(self, block: Switch, case: Case) -> Count:
        """How often a case runs each time that its switch runs."""
        return self._chosen(block.on, lambda value: value in case.matches)

    def _chosen(self, value: Value, test: Callable[[Any], bool]) -> Count:
        try:
            return ONCE if test(self.value(value)) else NEVER
        except UnknownError:
            return PERHAPS

    def _items(self, block: Loop | FanOut) -> Count:
        items = UNKNOWN if block.over is None else self._length(block.over)
        if isinstance(block, FanOut):
            return items
        limit = block.max_iterations
        if limit is not None:
            most = limit if items.most is None else min(items.most, limit)
            items = Count(most if block.over is None else min(items.least, most), most)
        if block.while_ is None:
            return items
        holds = self._chosen(block.while_, bool)
        return NEVER if holds == NEVER else items if holds == ONCE else Count(0, items.most)

    def _length(self, over: Value) -> Count:
        try:
            items = self.value(over)
        except UnknownError:
            return UNKNOWN
        return Count(len(items), len(items)) if hasattr(items, "__len__") else UNKNOWN
