"""Workflows as JSON and YAML: what is written comes back equal, what has no text is refused."""

from __future__ import annotations

import enum
import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.context import Context
from crucible_kitchen.engine import run
from crucible_kitchen.errors import WorkflowError
from crucible_kitchen.graph import (
    Retry,
    Stage,
    Workflow,
    async_loop,
    case,
    fan_out,
    loop,
    parallel,
    scope,
    stage,
    stream_loop,
    switch,
    when,
    workflow,
)
from crucible_kitchen.graph.stage import Literal

HERE = __name__


class Colour(enum.Enum):
    RED = 1


@stage(writes="x")
def load(size: int = 3) -> int:
    return size


@stage(writes="y", retry=Retry(3, backoff=0.5, on=(OSError, ValueError)))
def double(x: int) -> int:
    return 2 * x


@stage(writes="z")
def label(what: Any) -> Any:
    return what


@stage(timeout=5.0)
async def wait(y: int) -> None: ...


shout = stage(writes="loud")(lambda x: f"{x}!")
twice = double.bind(x="y").with_(name="twice", retry=None)


def rounds(size: int = 2) -> range:
    return range(size)


def is_big(x: int) -> bool:
    return x > 2


class Scale(Stage):
    writes = ("scaled",)
    by: float = 2.0
    where: Path = Path(".")
    colour: Colour | None = None
    shape: tuple[int, ...] = ()

    def execute(self, ctx: Context) -> Context:
        return ctx.put_state("scaled", ctx.state.x * self.by)


class Opaque(Stage):
    def execute(self, ctx: Context) -> Context:
        return ctx


class InClassForm(Workflow):
    name = "in_class_form"
    body = (load, loop("l", over="numbers")[double], when("never")[label.bind(what=1)])
    finally_ = (Opaque,)

    def numbers(self, ctx: Context) -> list[int]:
        return [1, 2]

    def never(self, ctx: Context) -> bool:
        return False

    @stage(writes="inner")
    def inner() -> int:  # type: ignore[misc]
        return 1


class Derived(InClassForm):
    name = "derived"
    on_error = (InClassForm.inner,)


WHOLE = (
    workflow("whole")[
        load.with_(name="first", timeout=None),
        Scale(by=0.5, where=Path("a/b"), colour=Colour.RED, shape=(1, 2)),
        Scale,
        loop("epochs", over=rounds, max_iterations=7)[double, wait.with_(timeout=2)],
        loop("steps", over=range(0, 9, 2))[label.bind(what="steps.item")],
        loop("going", over=rounds, while_="more", max_iterations=1)[twice],
        loop("never", while_=False)[shout],
        stream_loop("batches", over="first_batches", prefetch=4)[
            label.bind(what=Colour.RED, writes={"z": "colour"}),
        ],
        async_loop("rl", producer=rounds, stop_when=is_big, buffer=2, max_staleness=0)[double],
        async_loop("rest", producer=rounds, stop_when=None)[double],
        when(is_big)[load].otherwise[double.with_(retry=2)],
        when(is_big)[load],
        when(True)[load.bind(size={"tuple": (1, [2.5, None], {3})})],
        switch("method")[
            case("sft", 3)[load], case(Colour.RED)[double], case((1, 2))[load], case(None)[load]
        ].otherwise[double],
        switch(rounds)[case(True)[load]],
        parallel("pair", max_concurrency=2)[load, shout],
        parallel("all")[load, shout],
        fan_out("sweep", over=("a", "b"), collect={"y": "ys"}, max_concurrency=1)[
            double.with_(retry=Retry(2, backoff=0.1, on=OSError, max_backoff=3, jitter=0.0))
        ],
        fan_out("again", over={"k": [1, float("inf")]}, collect="y")[double],
        scope("teacher")[load, scope("inner")[label.bind(what=Literal("text"), writes="said")]],
        scope("keys")[label.bind(what="a:b")],
    ]
    .finally_[label.bind(what=b"\0\xff")]
    .on_error[label.bind(what="on_error.error", writes="seen")]
)


@pytest.mark.parametrize("value", [WHOLE, InClassForm(), Derived()], ids=lambda value: value.name)
def test_what_is_written_comes_back_equal(value: Workflow) -> None:
    as_json, as_yaml = value.to_json(), value.to_yaml()
    for back in (Workflow.from_json(as_json), Workflow.from_yaml(as_yaml)):
        assert back == value
        assert hash(back) == hash(value)
        assert back.to_json() == as_json
        assert back.to_yaml() == as_yaml
        assert repr(back.graph.edges) == repr(value.graph.edges)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"max_iterations": 7', '"max_iterations": 8'),
        ('"prefetch": 4', '"prefetch": 5'),
        ('"backoff": 0.1', '"backoff": 0.2'),
        ('"by": 0.5', '"by": 0.25'),
        ('"max_concurrency": 2', '"max_concurrency": 3'),
        ('"timeout": 2', '"timeout": 3'),
        ('"on_error.error"', '"on_error.stage"'),
        ('"size": {', '"size": null, "x": {'),
    ],
)
def test_each_part_counts_for_equality(old: str, new: str) -> None:
    """So that the test above can fail: another field is another workflow, or none."""
    text = WHOLE.to_json()
    assert old in text
    changed = text.replace(old, new, 1)
    if '"x"' in new:
        with pytest.raises(WorkflowError, match="no parameter 'x'"):
            Workflow.from_json(changed)
    else:
        assert Workflow.from_json(changed) != WHOLE


def test_the_copy_runs() -> None:
    back = Workflow.from_yaml(Derived().to_yaml())
    assert run(back).context.state.y == 6


def test_the_text_is_what_one_would_write() -> None:
    value = workflow("w")[
        load,
        double.bind(x="n.item").with_(name="other"),
        loop("n", over=rounds)[when(is_big)[load].otherwise[double]],
    ].finally_[load]
    assert value.to_yaml() == (
        f"workflow: w\n"
        f"body:\n"
        f"- {HERE}:load\n"
        f"- stage: {HERE}:double\n"
        f"  bind:\n"
        f"    x: n.item\n"
        f"  name: other\n"
        f"- loop: n\n"
        f"  over: {HERE}:rounds\n"
        f"  body:\n"
        f"  - when: {HERE}:is_big\n"
        f"    body:\n"
        f"    - {HERE}:load\n"
        f"    otherwise:\n"
        f"    - {HERE}:double\n"
        f"finally:\n"
        f"- {HERE}:load\n"
    )


def test_blocks_named_by_an_edit_keep_their_names() -> None:
    value = workflow("w")[when(True)[load], when(True)[double]].without("when")
    assert [node.name for node in value.body] == ["when_2"]
    assert Workflow.from_json(value.to_json()) == value


def test_a_case_for_a_set_keeps_its_name_whatever_the_order_of_the_set() -> None:
    one, other = frozenset([0, -8]), frozenset([-8, 0])
    assert (one, str(one)) != (other, str(other))  # equal, and shown otherwise
    for match in (one, other):
        value = workflow("w")[switch("x")[case(match)[load]]]
        assert Workflow.from_json(value.to_json()) == value
        assert Workflow.from_yaml(value.to_yaml()) == value


def test_lines_of_yaml_are_the_source_of_its_blocks() -> None:
    text = WHOLE.to_yaml()
    back = Workflow.from_yaml(text, source="flow.yaml")
    line = text.split("\n").index("- loop: epochs") + 1
    (epochs,) = (node for node in back.body if node.name == "epochs")
    assert epochs.source == f"flow.yaml:{line}"
    assert back.body[0].source.rpartition(":")[0] == __file__


def refused(value: Workflow) -> str:
    with pytest.raises(WorkflowError) as caught:
        value.to_json()
    return str(caught.value)


def test_what_has_no_text_is_refused_all_at_once_with_path_and_line() -> None:
    @stage
    def local() -> None: ...

    size = 3
    line = local.source.rpartition(":")[2]
    said = refused(
        workflow("w")[
            local,
            loop("l", over=lambda: range(size))[load],
            when(lambda x: x > 1)[load.bind(size=object())],
            stage(lambda: None).with_(name="anonymous"),
        ]
    )
    assert "4 problem(s)" in said
    assert f"[not-writable] w/local ({__file__}:{line}): 'local' is defined inside" in said
    assert re.search(r"w/l \(.*test_text\.py:\d+\): a lambda has no name", said)
    assert re.search(r"w/when \(.*test_text\.py:\d+\): a lambda", said) or "w/when/load" in said
    assert "w/anonymous" in said
    assert "help: give it a name at the top level of a module" in said


def test_every_problem_of_a_block_and_of_what_is_in_it_is_told() -> None:
    said = refused(workflow("w")[loop("l", over=[1])[load.bind(size=object())], loop("m", over=1)])
    assert "w/l/load" in said
    assert "type object cannot be written" in said


def test_what_is_broken_already_is_told_instead_of_lost() -> None:
    said = refused(workflow("w")[load.with_(retrys=2), is_big])
    assert "unknown option 'retrys'" in said
    assert "'is_big' is not a stage" in said


def test_what_stands_in_the_program_is_read_by_that_program_alone(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\nimport crucible_kitchen as ck\n\n"
        "@ck.stage(writes='x')\ndef load() -> int:\n    return 1\n\n"
        "flow = ck.workflow('w')[load]\n"
        "assert ck.Workflow.from_yaml(flow.to_yaml()) == flow\n"
        "print(flow.to_yaml())\n"
    )
    command = [sys.executable, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "- __main__:load" in done.stdout
    said = "\n".join(problems(done.stdout))
    assert "there is no 'load' in it" in said
    assert "give it a module of its own" in said


def test_a_name_that_means_something_else_now_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = rounds
    monkeypatch.setattr(f"{HERE}.rounds", is_big)
    said = refused(workflow("w")[loop("l", over=old)[load]])
    assert f"'rounds' is not what module '{HERE}' has under that name" in said


def problems(text: str) -> list[str]:
    with pytest.raises(WorkflowError) as caught:
        Workflow.from_yaml(text, source="flow.yaml")
    return [str(problem) for problem in caught.value.problems]


BAD = f"""\
workflow: w
bdy: []
body:
- lop: epochs
  body: []
- loop: epochs
  ovr: {HERE}:rounds
  over: one-two:four
  body:
  - {HERE}:lod
  - {HERE}:is_big
  - nowhere.at_all:x
- stage: {HERE}:double
  bind: {{xs: y}}
  retry: {{attempts: 0, of: 3}}
- stage: {HERE}:double
  timeout: -1
  options: {{a: 1}}
- stage: {HERE}:Scale
  options: {{bye: 1}}
- stream_loop: s
  over: [1]
  prefetch: 0
  body: {HERE}:load
- loop: l
  switch: x
- 7
- when: {{tupel: [1]}}
  body: [{HERE}:load]
- fan_out: f
  over: {{range: 3}}
  body: [{HERE}:load]
"""


def test_a_bad_text_is_told_whole_with_lines_and_suggestions() -> None:
    said = problems(BAD)
    wanted = [
        ("flow.yaml:1", "a workflow has no field 'bdy'", "did you mean 'body'"),
        ("flow.yaml:4", "there is no block 'lop'", "did you mean 'loop'"),
        ("flow.yaml:6", "a loop has no field 'ovr'", "did you mean 'over'"),
        ("flow.yaml:6", "'one-two:four' is no import path", "write module:name"),
        ("flow.yaml:10", "there is no 'lod' in it", "did you mean 'load'"),
        ("flow.yaml:11", f"the function '{HERE}:is_big' is not a stage", "@stage"),
        ("flow.yaml:12", "there is no module 'nowhere'", "where `crucible` was started"),
        ("flow.yaml:13", "bind: no parameter 'xs'", "did you mean 'x'"),
        ("flow.yaml:15", "retry has no field 'of'", "known: attempts"),
        ("flow.yaml:13", "retry: Retry: attempts must be an int of at least 1, got 0", ""),
        ("flow.yaml:16", "timeout must be a number of seconds above 0", ""),
        ("flow.yaml:16", "options are for stages that are classes", ""),
        ("flow.yaml:19", "Scale: no option 'bye'", "did you mean 'by'"),
        ("flow.yaml:21", "prefetch must be an int of at least 1", ""),
        ("flow.yaml:21", "body must be a list of stages and blocks", ""),
        ("flow.yaml:25", "says 'loop' and 'switch': it must be one thing", ""),
        ("flow.yaml:27", "must be a stage or a block, got 7", ""),
        ("flow.yaml:28", "a mapping must have one key", "did you mean 'tuple'"),
        ("flow.yaml:30", "{range: 3}: must be a list", ""),
    ]
    left = list(said)
    for source, message, advice in wanted:
        (found,) = [one for one in left if message in one and f"({source})" in one] or [""]
        assert found, f"{source}: {message} is not in\n" + "\n".join(said)
        assert advice in found
        left.remove(found)
    assert left == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workflow: [", "not YAML: "),
        ("workflow: w\nbody: []\nbody: []", "the key 'body' stands twice"),
        ("- 1", "a workflow is a mapping with workflow: NAME and body:"),
        ("body: []", "a workflow is a mapping with workflow: NAME"),
        ("workflow: w", "body must be a list of stages and blocks, got nothing"),
        ("workflow: a b\nbody: []", "name must be letters"),
    ],
)
def test_what_is_no_workflow_is_told(text: str, message: str) -> None:
    (said,) = problems(text)
    assert message in said


def test_bad_json_is_told() -> None:
    with pytest.raises(WorkflowError, match="not JSON"):
        Workflow.from_json("{")
    with pytest.raises(WorkflowError, match=r"w\.json.*the key 'a' stands twice"):
        Workflow.from_json('{"a": 1, "a": 2}', source="w.json")


def test_an_error_inside_a_module_is_its_own(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_stages.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        Workflow.from_yaml("workflow: w\nbody: [broken_stages:x]")


def test_json_is_json() -> None:
    content = json.loads(WHOLE.to_json())
    assert content["workflow"] == "whole"
    assert [item["loop"] for item in content["body"] if "loop" in item] == [
        "epochs",
        "steps",
        "going",
        "never",
    ]


JUNK: list[Any] = [
    *(None, True, 3, -1, 1.5, "", "x", "a:b", "builtins:int", "builtins:len", [], {}, [1], [[]]),
    *({"a": 1}, {"tuple": 3}, {"set": [[1]]}, {"dict": [1]}, {"bytes": "!"}, {"float": "x"}),
    *({"range": ["a"]}, {"import": 3}, {"key": 3}, {"literal": {"tuple": 1}}, [{"stage": 3}]),
    *({"stage": "builtins:int"}, {"loop": 1}, {"attempts": "x"}, {"on": [3]}),
    *(f"{HERE}:Scale", f"{HERE}:load", f"{HERE}:is_big"),
]
FIELDS = ("x", "body", "over", "on", "name", "stage", "bind", "options", "retry", "writes")


def _places(content: Any) -> list[tuple[Any, Any]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    found: list[tuple[Any, Any]] = []
    for key, value in inner:
        found.append((content, key))
        if isinstance(value, (dict, list)):
            found += _places(value)
    return found


@pytest.mark.parametrize("part", range(4))
def test_whatever_was_written_is_read_or_refused(part: int) -> None:
    whole = WHOLE.to_json()
    refusals = 0
    for seed in range(part * 100, part * 100 + 100):
        chance = random.Random(seed)
        content = json.loads(whole)
        for _ in range(chance.randint(1, 3)):
            parent, key = chance.choice(_places(content))
            if chance.random() < 0.7:
                parent[key] = chance.choice(JUNK)
            elif isinstance(parent, dict):
                parent[chance.choice(FIELDS)] = parent.pop(key)
            else:
                del parent[key]
        try:
            Workflow.from_json(json.dumps(content)).to_json()
        except WorkflowError:
            refusals += 1
    assert 50 < refusals < 100
