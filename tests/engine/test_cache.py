"""Cached stages: never stale, kept by content, whole or not at all."""

from __future__ import annotations

import enum
import importlib.util
import itertools
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen import engine
from crucible_kitchen.context import Context, Metrics
from crucible_kitchen.engine import Rng
from crucible_kitchen.engine.code import add_code
from crucible_kitchen.engine.content import CannotHash, Content
from crucible_kitchen.errors import StageError
from crucible_kitchen.graph import Stage, find_problems, loop, stage, workflow
from crucible_kitchen.ports import DatasetStore

SOURCE = """
import math
import helpers
from helpers import shared

SCALE = 3

def helper(x):
    return helpers.deeper(x) + inner(x) + shared(x)

def inner(x):
    return x * SCALE

def made(offset):
    def function(x, *, by=5):
        total = helper(x) + offset + by
        return math.floor(total)
    return function

function = made(100)
"""
HELPERS = """
TABLE = {"a": 1}

class Rule:
    limit = 9

    def apply(self, x):
        return min(x, self.limit)

def shared(x):
    return Rule().apply(x)

def deeper(x):
    from helpers import deepest
    return x + deepest()

def deepest():
    return TABLE["a"]
"""
_number = itertools.count()
Run = Callable[..., bool]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stages"


def cached(w: Any, config: dict[str, Any] | None = None, **options: Any) -> list[str]:
    """Paths of the stages that gave what they gave before."""
    told: list[str] = []

    def note(event: engine.Event) -> None:
        if event.kind == "stage.cached":
            told.append(event.path)

    # One after another: of two equal stages at once, neither finds what the other gave.
    engine.run(w, config, handlers=[note], max_concurrency=1, **options)
    return told


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Run:
    """Whether a stage made of the sources above, as changed, runs, or gives what it gave before."""

    def run(source: str = SOURCE, helpers: str = HELPERS, x: Any = 1, bound: int = 0) -> bool:
        folder = tmp_path / f"code{next(_number)}"
        folder.mkdir()
        for name, text in (("helpers", helpers), ("code_of_a_user", source)):
            (folder / f"{name}.py").write_text(text)
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
        function = module.function

        @stage(writes="y", cache=True)
        def call(x: Any, option: int) -> Any:
            return function(x) + option

        return not cached(workflow("w")[call.bind(option=bound)], {"x": x})

    return run


def test_the_second_time_nothing_runs(runs) -> None:
    assert runs()
    assert not runs()


CHANGES = {
    "body": {"source": SOURCE.replace("+ offset", "- offset")},
    "helper": {"source": SOURCE.replace("+ inner(x)", "- inner(x)")},
    "helper's helper": {"source": SOURCE.replace("x * SCALE", "x / SCALE")},
    "global": {"source": SOURCE.replace("SCALE = 3", "SCALE = 4")},
    "closure": {"source": SOURCE.replace("made(100)", "made(101)")},
    "default": {"source": SOURCE.replace("by=5", "by=6")},
    "option": {"bound": 7},
    "input": {"x": 2},
    "type of an input": {"x": 1.0},
    "helper of a module": {"helpers": HELPERS.replace("x + deepest()", "x - deepest()")},
    "imported inside": {"helpers": HELPERS.replace('TABLE["a"]', 'TABLE["a"] + 1')},
    "table": {"helpers": HELPERS.replace('{"a": 1}', '{"a": 2}')},
    "method": {"helpers": HELPERS.replace("min(x", "max(x")},
    "class attribute": {"helpers": HELPERS.replace("limit = 9", "limit = 8")},
    "library function": {"source": SOURCE.replace("math.floor", "math.ceil")},
    "another module": {"source": SOURCE.replace("import math", "import cmath as math")},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_matters_makes_it_run_again(runs, change) -> None:
    assert runs()
    assert change.get("source") != SOURCE
    assert change.get("helpers") != HELPERS
    if "cmath" in change.get("source", ""):
        with pytest.raises(StageError, match="floor"):
            runs(**change)
    else:
        assert runs(**change), "stale"
    assert not runs(), "what was kept first is kept still"


COSMETICS = {
    "comment": {"source": SOURCE.replace("SCALE = 3", "# how much\nSCALE = 3  # times")},
    "docstring": {"source": SOURCE.replace("def inner(x):", 'def inner(x):\n    """Scaled."""')},
    "formatting": {
        "source": SOURCE.replace("helper(x) + offset + by", "(\n  helper(x)\n  + offset + by\n)")
    },
    "renamed local": {"source": SOURCE.replace("total", "everything")},
    "docstring of the stage": {
        "source": SOURCE.replace("by=5):", 'by=5):\n        """Shifted."""\n')
    },
    "unused function": {"helpers": HELPERS + "\ndef unrelated():\n    return 1\n"},
    "docstring of a class": {"helpers": HELPERS.replace("class Rule:", 'class Rule:\n    """."""')},
    "blank lines": {"source": SOURCE.replace("\n\n", "\n\n\n\n")},
}


@pytest.mark.parametrize("change", COSMETICS.values(), ids=COSMETICS)
def test_what_does_not_matter_keeps_it(runs, change) -> None:
    assert SOURCE not in change.values()
    assert HELPERS not in change.values()
    assert runs()
    assert not runs(**change)


@stage(writes="y", cache=True)
def three(x: int) -> list[int]:
    return [1, 2, 3]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_what_is_no_input_does_not_matter_and_equal_results_are_kept_once(cache) -> None:
    w = workflow("w")[
        three,
        three.bind(writes="z").with_(name="again", retry=2),
        three.bind(x=7, writes="u").with_(name="other"),
    ]
    assert cached(w, {"x": 1}) == ["w/again"]
    assert cached(w, {"x": 1}) == ["w/three", "w/again", "w/other"]
    result = engine.run(w, {"x": 1})
    assert result.context.state.y == result.context.state.z == result.context.state.u == [1, 2, 3]
    assert len(files(cache / "keys")) == 2
    assert len(files(cache / "contents")) == 1


@pytest.mark.parametrize("part", ["keys", "contents"])
@pytest.mark.parametrize("damage", [b"", b"\x00\xff", None, "cut"])
def test_what_is_damaged_is_made_again_with_a_warning(cache, part, damage) -> None:
    w = workflow("w")[three]
    cached(w, {"x": 1})
    (path,) = files(cache / part)
    if part == "keys" and damage is None:
        return  # what is not there is not damaged
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "cut" else damage)
    with pytest.warns(RuntimeWarning, match=r"cache: .* is damaged and made again"):
        assert cached(w, {"x": 1}) == []
    assert cached(w, {"x": 1}) == ["w/three"]
    assert not [path for path in files(cache) if path.name.startswith(".")]


class Out(NamedTuple):
    a: int
    b: float


@stage(cache=True)
async def measured(x: int, metrics: Metrics, rng: Rng) -> Out:
    metrics.record("seen", x, step=4)
    return Out(x, rng.random())


def test_metrics_come_again_and_chance_depends_on_seed_and_place(cache) -> None:
    w = workflow("w")[loop("l", over=[1, 1])[measured.bind(x="l.item")]]
    assert cached(w) == []  # another place, another chance
    first = engine.run(w, seed=0)
    assert cached(w, seed=0) == ["w/l[0]/measured", "w/l[1]/measured"]
    again = engine.run(w, seed=0)
    assert again.context.state == first.context.state
    said = [(r.name, r.value, r.step) for r in again.metrics]
    assert said == [("seen", 1, 4), ("seen", 1, 4)]
    assert cached(w, seed=1) == []


@stage(writes="y", cache=True)
def anything(x: Any) -> int:
    return 1


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ((n for n in range(3)), "a generator has no content"),
        (threading.Lock(), "cannot pickle"),
        ([{"deep": threading.Lock()}], "cannot pickle"),
    ],
)
def test_an_input_without_content_is_a_clear_error(value, said) -> None:
    with pytest.raises(StageError, match="cannot be cached: input 'x': ") as caught:
        engine.run(workflow("w")[anything], {"x": value})
    assert said in str(caught.value)
    assert "leave cache=True out" in str(caught.value)


LOCK = threading.Lock()


def holds() -> int:
    with LOCK:
        return 1


@stage(writes="y", cache=True)
def uses_a_lock(x: int) -> int:
    return holds()


def test_a_global_without_content_is_named() -> None:
    with pytest.raises(StageError, match="cannot be cached: its code: LOCK, which holds uses: "):
        engine.run(workflow("w")[uses_a_lock], {"x": 1})


@stage(writes="y", cache=True)
def gives_a_lock(x: int) -> Any:
    return threading.Lock()


def test_a_result_that_cannot_be_kept_is_given_with_a_warning(cache) -> None:
    with pytest.warns(RuntimeWarning, match="cache: what w/gives_a_lock gives cannot be kept"):
        result = engine.run(workflow("w")[gives_a_lock], {"x": 1})
    assert result.context.state.y is not None
    assert not files(cache)


def test_what_fails_is_not_kept(cache) -> None:
    @stage(writes="y", cache=True)
    def fails(x: int) -> int:
        raise OSError("no")

    with pytest.raises(StageError, match="OSError: no"):
        engine.run(workflow("w")[fails], {"x": 1})
    assert not files(cache)


def test_what_cannot_be_cached_is_found_before_the_run() -> None:
    class Whole(Stage):
        def execute(self, ctx: Context) -> Context:
            return ctx

    @stage(writes="rows", cache=True)
    def port(*, dataset_store: DatasetStore) -> list[int]:
        return []

    @stage(writes="a", cache=True)
    def sees(*, ctx: Context) -> int:
        return 1

    @stage(cache=True)
    def silent() -> None: ...

    w = workflow("w")[Whole().with_(cache=True), port, sees, silent]
    problems = find_problems(w)
    assert [(p.code, p.path) for p in problems] == [
        ("cannot-cache", f"w/{name}") for name in ("whole", "port", "sees", "silent")
    ]
    assert all(p.help and re.search(r"test_cache\.py:\d+$", p.source) for p in problems)
    (wrong,) = find_problems(workflow("w")[three.with_(cache="yes")])
    assert "cache must be True or False, got 'yes'" in wrong.message


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Point:
    x: int
    y: Any = None


def digest(value: Any) -> str:
    content = Content(add_code)
    content.add(value)
    return content.hexdigest()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(plain, plain)
def test_hashes_are_equal_where_values_are(one, other) -> None:
    # `repr` tells all of these apart, 1 from True and -0.0 from 0.0 as well.
    assert (digest(one) == digest(other)) == (repr(one) == repr(other))


def test_hashes_tell_values_apart_and_know_equal_ones() -> None:
    array = np.arange(6)
    different = [
        1, True, 1.0, "1", b"1", None, (), [], {}, set(), [1], (1,), [[1], []], [[], [1]],
        {"a": 1, "b": 2}, {"b": 2, "a": 1}, Colour.RED, Colour.BLUE, Point(1), Point(2), Point,
        Path("a"), array, array.reshape(2, 3), array.astype(np.float32), array[::-1], np.int64(1),
        range(3), slice(3), len, digest, even, sorted, int | str, list[int], lambda: 1, lambda: 2,
        Point(1).__repr__, np.array([None, "a"], dtype=object), re.compile("a"), re.compile("b"),
    ]  # fmt: skip
    hashes = [digest(value) for value in different]
    assert len(set(hashes)) == len(hashes)
    part = [1, 2]
    assert digest([part, part]) == digest([[1, 2], [1, 2]])
    assert digest({"a", "b", "c"}) == digest({"c", "b", "a"})
    assert digest(array[::2]) == digest(array[::2].copy())
    assert digest(Point(1, [2])) == digest(Point(1, [2]))


def test_values_and_code_that_hold_themselves() -> None:
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    assert digest(one) == digest(other)
    assert digest(one) != digest([1, [1, []]])
    assert digest(even) != digest(odd)
    with pytest.raises(CannotHash):
        digest(iter_of_open())


def even(n: int) -> bool:
    return n == 0 or odd(n - 1)


def odd(n: int) -> bool:
    return n != 0 and even(n - 1)


def iter_of_open() -> Any:
    return (line for line in ())


def test_hashes_are_the_same_in_every_process(tmp_path) -> None:
    (tmp_path / "mine.py").write_text(
        "import sys, re\nfrom crucible_kitchen.engine.code import add_code\n"
        "from crucible_kitchen.engine.content import Content\n"
        "NAMES = {'a', 'b', 'c', 'd'}\nclass A:\n    kinds = frozenset(NAMES)\n"
        "    def f(self, x): return self.g(x) in NAMES\n"
        "    def g(self, x): return A, x in {'u', 'v'}\n"
        "c = Content(add_code)\nc.add([A(), {'k': NAMES}, A.f, re.compile('x')])\n"
        "print(c.hexdigest())\n"
    )
    said = {
        subprocess.run(
            [sys.executable, tmp_path / "mine.py"],
            env={"PYTHONHASHSEED": str(seed), "PATH": ""},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in range(3)
    }
    assert len(said) == 1


def test_a_tensor_is_told_by_dtype_shape_and_bytes() -> None:
    torch = pytest.importorskip("torch")
    values = [torch.ones(4), torch.ones(2, 2), torch.ones(4).bfloat16(), torch.zeros(4)]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(torch.ones(8)[::2]) == digest(torch.ones(4))
