"""What a function's signature declares."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import pytest

from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Rng
from crucible_kitchen.graph.annotations import accepts, runtime_classes
from crucible_kitchen.graph.signature import read_signature
from crucible_kitchen.ports import Evaluator, TrainingClient

if TYPE_CHECKING:
    from crucible_kitchen.ports import DatasetStore


class Step(NamedTuple):
    grads: list[float]
    loss: float


def test_positional_parameters_are_keys_and_ports_are_injected() -> None:
    def train(
        batch: list[int], lr: float = 0.1, *, training_client: TrainingClient, metrics: Metrics
    ) -> Step: ...

    signature = read_signature(train)
    assert [(r.key, r.type, r.required) for r in signature.reads] == [
        ("batch", list[int], True),
        ("lr", float, False),
    ]
    assert [(i.role, i.is_port) for i in signature.injected] == [
        ("training_client", True),
        ("metrics", False),
    ]
    assert [(w.key, w.type) for w in signature.writes] == [("grads", list[float]), ("loss", float)]
    assert signature.record is Step
    assert not signature.defects


def test_injected_by_annotation_wherever_they_stand() -> None:
    def look(
        ctx: Context, rng: Rng, *, log: logging.Logger, evaluator: Evaluator | None
    ) -> None: ...

    signature = read_signature(look)
    assert [(i.role, i.required) for i in signature.injected] == [
        ("context", True),
        ("rng", True),
        ("logger", True),
        ("evaluator", False),
    ]
    assert signature.sees_context
    assert signature.order == ("ctx", "rng")


def test_a_parameter_called_ctx_needs_no_annotation() -> None:
    assert read_signature(lambda ctx: 1, returns_writes=False).sees_context


def test_a_port_imported_for_type_checkers_only_is_known_by_name() -> None:
    def load(*, dataset_store: DatasetStore) -> None: ...

    (injected,) = read_signature(load).injected
    assert (injected.role, injected.is_port) == ("dataset_store", True)


def test_names_of_the_enclosing_function_are_found() -> None:
    class Local:
        pass

    def make(a: Local) -> Local: ...

    signature = read_signature(make, "b", depth=1)
    assert signature.reads[0].type is Local
    assert signature.writes[0].type is Local


def test_several_keys_from_a_tuple() -> None:
    def split(rows: list[int]) -> tuple[list[int], str]: ...

    signature = read_signature(split, ("train", "name"))
    assert [(w.key, w.type) for w in signature.writes] == [("train", list[int]), ("name", str)]


def test_async_wrapped_and_callable_objects() -> None:
    async def fetch(a: int) -> None: ...

    @functools.wraps(fetch)
    def wrapped(*args: Any) -> None: ...

    class Callable:
        async def __call__(self, b: int) -> None: ...

    assert read_signature(fetch).is_async
    assert [r.key for r in read_signature(wrapped).reads] == ["a"]
    assert [r.key for r in read_signature(Callable()).reads] == ["b"]
    assert read_signature(Callable()).is_async


def unnamed() -> int: ...
def not_a_port(*, depth: int) -> None: ...
def unannotated(*, depth) -> None: ...  # type: ignore[no-untyped-def]
def many(*args: int) -> None: ...
def rest(**kwargs: int) -> None: ...
def generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("function", "code", "said"),
    [
        (unnamed, "unnamed-write", "returns int but names no key"),
        (not_a_port, "not-injectable", "'depth' must be annotated with a port.*got int"),
        (unannotated, "not-injectable", "got no annotation"),
        (many, "bad-signature", r"'\*args' names no key"),
        (rest, "bad-signature", r"'\*\*kwargs' names no key"),
        (generator, "bad-signature", "cannot be a generator"),
        (dict, "bad-signature", "no readable signature"),
    ],
)
def test_wrong_declarations_are_collected(function: Any, code: str, said: str) -> None:
    import re

    defects = read_signature(function).defects
    assert any(d.code == code and re.search(said, d.message) for d in defects), defects


@pytest.mark.parametrize(
    ("reader", "writer", "wanted"),
    [
        (int, int, True),
        (float, int, True),
        (int, float, False),
        (int, bool, True),
        (str, int, False),
        (list[int], list[str], True),
        (list, dict, False),
        (Any, int, True),
        (Optional[int], type(None), True),  # noqa: UP045 - the old spelling is read as well
        (int | None, int, True),
        (int, int | None, True),
        (int, None, False),
        (Exception, ValueError, True),
        (ValueError, Exception, True),
        (ValueError, KeyError, False),
    ],
)
def test_types_along_an_edge(reader: Any, writer: Any, wanted: bool) -> None:
    assert accepts(reader, writer) is wanted


def test_what_cannot_be_told_is_not_checked() -> None:
    from typing import Literal, NewType, Protocol, TypedDict, TypeVar

    class Sized(Protocol):
        def size(self) -> int: ...

    class Row(TypedDict):
        a: int

    for kind in (Any, object, Sized, Row, TypeVar("T"), NewType("Id", int), int | Any):
        assert runtime_classes(kind) is None, kind
    assert runtime_classes(Literal["a", "b"]) == (str,)
