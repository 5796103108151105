"""``python-docs``: functions of the standard library, and what their docstrings say they do;
``python-docs-preferences``: the same, and what the docstring of another function says.

The prompt is a function's qualified name and its source without the docstring; the answer is the
docstring's first paragraph. Modules are read as text, never imported, so the rows depend on the
Python version alone. Whole top-level modules are held out: a model is never evaluated on a function
whose neighbours it learnt.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import sysconfig
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crucible_kitchen.ports import Row

# Not the library itself (tests, tools, what others installed), or not there on every machine.
_SKIPPED: Final = frozenset(
    {"test", "tests", "idle_test", "__phello__"}
    | {"site-packages", "dist-packages", "lib-dynload", "__pycache__"}
    | {"idlelib", "lib2to3", "distutils", "ensurepip", "tkinter", "turtledemo", "pydoc_data"}
)
# Sources this long are more than their signature, and leave a row at about 150 tokens on average.
_SOURCE_CHARACTERS: Final = range(90, 701)
_ANSWER_WORDS: Final = range(4, 61)
_HELD_OUT_ONE_IN: Final = 7


@dataclass(frozen=True)
class Function:
    """A documented function.

    Args:
        module: dotted name.
        qualname: name inside the module, classes included.
        source: its source with decorators, without its docstring and outer indentation.
        summary: first paragraph of its docstring, on one line.
    """

    module: str
    qualname: str
    source: str
    summary: str


@functools.cache
def splits() -> Mapping[str, Sequence[Row]]:
    """Rows of ``train`` and ``validation``, with ``id`` and ``messages``."""
    rows: dict[str, list[Row]] = {"train": [], "validation": []}
    for function in _chosen_functions():
        rows[_split(function)].append(_row(function))
    return rows


@functools.cache
def preference_splits() -> Mapping[str, Sequence[Row]]:
    """Rows of the same splits with ``id``, ``prompt``, ``chosen`` and ``rejected``.

    The chosen answer is the function's own summary, the rejected one that of the next function of
    its module (of the first behind the last). So each summary is chosen once and rejected once, and
    nothing but the prompt tells which it is. A module's only function has no sibling and no row.
    """
    by_module: dict[str, list[Function]] = {}
    for function in _chosen_functions():
        by_module.setdefault(function.module, []).append(function)
    rows: dict[str, list[Row]] = {"train": [], "validation": []}
    for siblings in by_module.values():
        if len(siblings) > 1:
            for function, other in zip(siblings, [*siblings[1:], siblings[0]], strict=True):
                rows[_split(function)].append(_preference_row(function, other))
    return rows


@functools.cache
def _chosen_functions() -> Sequence[Function]:
    """The functions whose summaries are asked for."""
    chosen: dict[str, Function] = {}
    for function in functions(Path(sysconfig.get_path("stdlib"))):
        # An answer that is met twice could be met in both splits.
        if function.summary not in chosen and _is_wanted(function):
            chosen[function.summary] = function
    return tuple(chosen.values())


def _split(function: Function) -> str:
    return "validation" if is_held_out(function.module) else "train"


def is_held_out(module: str) -> bool:
    """Whether a module's functions are for evaluation; it depends on the top-level name alone."""
    digest = hashlib.sha256(module.split(".")[0].encode()).digest()
    return int.from_bytes(digest[:8], "big") % _HELD_OUT_ONE_IN == 0


def functions(library: Path) -> Iterator[Function]:
    """Every documented function and method in a folder of modules, by path and then by line."""
    for path in sorted(_modules(library), key=lambda path: path.parts):
        try:
            source = (library / path).read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            # The library holds some files of broken syntax or encoding on purpose.
            continue
        parts = path.with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        # Not splitlines(): to the parser a form feed does not end a line.
        lines = source.split("\n")
        for qualname, node in _documented(tree, ""):
            summary = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            yield Function(module, qualname, _undocumented_source(node, lines), summary)


def _modules(library: Path) -> Iterator[Path]:
    """Paths of the modules, relative to the library, without a look into what is skipped."""
    for folder, inside, files in os.walk(library):
        inside[:] = [name for name in inside if not _is_skipped(name)]
        for name in files:
            if name.endswith(".py") and not _is_skipped(name.removesuffix(".py")):
                yield Path(folder, name).relative_to(library)


def _is_skipped(name: str) -> bool:
    generated = name.startswith(("_sysconfigdata", "config-"))
    return generated or name in _SKIPPED


_Def = ast.FunctionDef | ast.AsyncFunctionDef


def _documented(node: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, _Def]]:
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{prefix}{child.name}.")
        # A function that is only its docstring has no source to tell anything from.
        elif isinstance(child, _Def) and ast.get_docstring(child) and len(child.body) > 1:
            yield prefix + child.name, child


def _undocumented_source(node: _Def, lines: Sequence[str]) -> str:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    docstring = node.body[0]
    before, after = lines[first - 1 : docstring.lineno - 1], lines[docstring.end_lineno :]
    kept = [*before, *after[: (node.end_lineno or 0) - (docstring.end_lineno or 0)]]
    return textwrap.dedent("\n".join(line.rstrip() for line in kept)).strip()


def _is_wanted(function: Function) -> bool:
    return (
        not function.qualname.rpartition(".")[2].startswith("_")
        and len(function.source) in _SOURCE_CHARACTERS
        and len(function.summary.split()) in _ANSWER_WORDS
        and ">>>" not in function.summary
    )


def _row(function: Function) -> Row:
    return {"id": _name(function), "messages": [*_question(function), *_answer(function)]}


def _preference_row(function: Function, sibling: Function) -> Row:
    return {
        "id": _name(function),
        "prompt": _question(function),
        "chosen": _answer(function),
        "rejected": _answer(sibling),
    }


def _name(function: Function) -> str:
    return f"{function.module}.{function.qualname}"


def _question(function: Function) -> list[dict[str, str]]:
    asked = f"Summarize the Python function `{_name(function)}`."
    return [{"role": "user", "content": f"{asked}\n\n```python\n{function.source}\n```"}]


def _answer(function: Function) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": function.summary}]
