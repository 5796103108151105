"""Hashes of code by what it does: the function, its helpers, theirs, and the constants they use.

What a comment, a docstring, the layout or the name of a local changes is not part of it. Code of
installed packages and of Python counts by name and version, everybody else's by its content.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .content import CannotHash, Content

_PYTHON = f"{sys.implementation.cache_tag} {importlib.util.MAGIC_NUMBER.hex()}"
_OURS = __name__.partition(".")[0]
_SKIPPED = frozenset({"CACHE", "EXTENDED_ARG", "NOP", "RESUME", "PRECALL"})
_FROM_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_HAS_DOCSTRING = 0x4000000  # since Python 3.13
_SEES_LOCALS = frozenset({"locals", "vars", "eval", "exec", "dir"})
# Of a class, what Python makes itself and what says only where it was written.
_OF_NO_ACCOUNT = frozenset(
    {"__doc__", "__module__", "__dict__", "__weakref__", "__firstlineno__", "__annotations__"}
    | {"__static_attributes__", "__abstractmethods__", "_abc_impl", "__parameters__"}
    | {"__annotate__", "__annotate_func__", "__annotations_cache__", "__orig_bases__"}
)


def add_code(content: Content, value: Any) -> None:
    """Add a function, a class, a module or a descriptor.

    Raises:
        CannotHash: a global or a default that it uses has no content that can be told.
    """
    if isinstance(value, types.MethodType):
        content.raw("method")
        content.add(value.__func__)
        content.add(value.__self__)
    elif isinstance(value, (staticmethod, classmethod)):
        content.raw(type(value).__name__)
        content.add(value.__func__)
    elif isinstance(value, property):
        content.each("property", (value.fget, value.fset, value.fdel))
    elif isinstance(value, types.CodeType):
        _add_bytecode(content, value)
    elif isinstance(value, types.ModuleType):
        _add_module(content, value)
    elif isinstance(value, type):
        _add_class(content, value)
    elif isinstance(value, types.FunctionType):
        _add_function(content, value)
    else:
        name = getattr(value, "__qualname__", repr(value))
        content.raw("builtin", str(getattr(value, "__module__", "")), name, _PYTHON)


def _add_function(content: Content, function: types.FunctionType) -> None:
    if _is_library(function.__module__):
        content.raw("library", function.__qualname__, *_version(function.__module__))
        return
    content.raw("function")
    _add_bytecode(content, function.__code__)
    content.add(function.__defaults__)
    content.add(function.__kwdefaults__)
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            cells.append(None)
    content.each("closure", cells)
    for name, used in _used(function.__code__, function.__globals__):
        content.raw("uses", name)
        try:
            content.add(used)
        except CannotHash as error:
            raise CannotHash(f"{name}, which {function.__qualname__} uses: {error}") from error


def _add_bytecode(content: Content, code: types.CodeType) -> None:
    flags = code.co_flags & ~_HAS_DOCSTRING
    content.raw("code", _PYTHON, str(flags), str(code.co_argcount))
    content.raw(str(code.co_posonlyargcount), str(code.co_kwonlyargcount))
    arguments = code.co_argcount + code.co_kwonlyargcount
    named = code.co_varnames if _SEES_LOCALS & set(code.co_names) else code.co_varnames[:arguments]
    content.raw("arguments", *named)
    steps = [step for step in dis.get_instructions(code) if step.opname not in _SKIPPED]
    places = {step.offset: place for place, step in enumerate(steps)}
    ends = sorted(places)

    def place(offset: int) -> int:
        """Of the first step that counts at an offset or behind it."""
        return next((places[end] for end in ends if end >= offset), len(ends))

    for step in steps:
        content.raw(step.opname)
        if step.opcode in dis.hasconst:
            content.add(step.argval)
        elif step.opcode in dis.hasname:
            content.raw(str(step.argval))
        elif step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
            content.raw(str(place(step.argval)))
        else:
            content.raw(str(step.arg))
    content.raw("handlers", getattr(code, "co_exceptiontable", b""))


def _used(code: types.CodeType, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Globals that code and the code inside it use, and attributes of modules among them."""
    steps = [step for step in dis.get_instructions(code) if step.opname not in _SKIPPED]
    for at, step in enumerate(steps):
        if step.opname in _FROM_GLOBALS and step.argval in names:
            yield from _followed(str(step.argval), names[step.argval], steps, at + 1)
        elif step.opname == "IMPORT_NAME":
            yield from _imported(step.argval, steps, at, names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _used(constant, names)


def _followed(
    name: str, value: Any, steps: list[dis.Instruction], at: int
) -> Iterator[tuple[str, Any]]:
    """A global; where it is a module, what the attributes behind it name."""
    while isinstance(value, types.ModuleType) and at < len(steps):
        step = steps[at]
        if step.opname not in _ATTRIBUTES or not hasattr(value, str(step.argval)):
            break
        name, value = f"{name}.{step.argval}", getattr(value, str(step.argval))
        at += 1
    yield name, value


def _imported(
    name: str, steps: list[dis.Instruction], at: int, names: dict[str, Any]
) -> Iterator[tuple[str, Any]]:
    """What an import inside a function gives."""
    level = steps[at - 2].argval if at >= 2 else 0
    full = "." * (level if isinstance(level, int) else 0) + name
    package = names.get("__package__") or ""
    resolved = importlib.util.resolve_name(full, package) if full.startswith(".") else full
    if _is_library(resolved):
        yield resolved, _version(resolved)
        return
    module = importlib.import_module(resolved)
    wanted = steps[at - 1].argval  # None of ``import a.b``, the names of ``from a import b``
    if not isinstance(wanted, tuple):
        yield resolved, module
        return
    for attribute in wanted:
        inner = f"{resolved}.{attribute}"
        if not hasattr(module, attribute):
            importlib.import_module(inner)
        yield inner, getattr(module, attribute)


def _add_class(content: Content, kind: type) -> None:
    content.raw("class", kind.__qualname__)
    if _is_library(kind.__module__):
        content.raw(*_version(kind.__module__))
        return
    content.each("bases", kind.__bases__)
    members = {name: one for name, one in vars(kind).items() if _counts(name, one)}
    for name in sorted(members):
        content.raw(name)
        content.add(members[name])


def _counts(name: str, member: Any) -> bool:
    if name in _OF_NO_ACCOUNT or isinstance(member, types.GetSetDescriptorType):
        return False
    # Pydantic and dataclasses keep what they made from the rest under names of their own.
    return not name.startswith(("__pydantic", "__dataclass", "__signature"))


def _add_module(content: Content, module: types.ModuleType) -> None:
    """A module that is handed on whole: everything in it that is its own."""
    if _is_library(module.__name__):
        content.raw("module", *_version(module.__name__))
        return
    content.raw("module", module.__name__)
    for name, value in sorted(vars(module).items()):
        if not name.startswith("__"):
            content.raw(name)
            content.add(value)


@functools.lru_cache(maxsize=4096)
def _is_library(module: str | None) -> bool:
    """Whether a module is of Python or of an installed package."""
    if module is None or module == "__main__":
        return False
    top = module.partition(".")[0]
    if top == _OURS or top in sys.stdlib_module_names:
        return True
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if loaded is None:
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):
            return False
        file = None if spec is None else spec.origin
    if file is None:
        return False
    path = Path(file).resolve()
    return any(path.is_relative_to(home) for home in _homes())


@functools.lru_cache(maxsize=1)
def _homes() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = {sysconfig.get_path(name) for name in names}
    site = {entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    return tuple(Path(entry).resolve() for entry in found | site if entry)


def _version(module: str | None) -> tuple[str, str]:
    """The package of a module, and its version."""
    top = (module or "").partition(".")[0]
    if top == _OURS:
        return top, _our_sources()
    version = getattr(sys.modules.get(top), "__version__", "")
    return top, str(version) or _PYTHON


@functools.lru_cache(maxsize=1)
def _our_sources() -> str:
    """The hash of this package, whose version does not tell what is being written on it."""
    home = Path(__file__).parents[1]
    found = hashlib.blake2b(digest_size=20)
    for path in sorted(home.rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
