"""Import paths, ``module:qualname``: the name of a thing, and the thing of a name."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from crucible_kitchen.errors import did_you_mean
from crucible_kitchen.graph.class_form import owner_of
from crucible_kitchen.graph.values import code_location
from crucible_kitchen.graph.workflow import Workflow

_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


class Unwritable(Exception):
    """Something that has no text.

    Args:
        message: what and why.
        advice: what to do about it.
        source: ``file:line`` of it, where known.
    """

    def __init__(self, message: str, advice: str = "", source: str = "") -> None:
        super().__init__(message)
        self.help = advice
        self.source = source


class NotFound(Exception):
    """Nothing has this import path.

    Args:
        message: the path and why.
        advice: what to do about it.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.help = advice


def path_of(thing: Any) -> str:
    """The import path of a function, class, method of a `Workflow` class, or member of an enum.

    Raises:
        Unwritable: another program could not import it.
    """
    return find_path(thing, lambda other: _same(other, thing))


def find_path(thing: Any, is_it: Callable[[Any], bool]) -> str:
    """The import path of what stands for a thing where the thing is defined.

    Args:
        thing: a function, class, method or member of an enum.
        is_it: whether something found under a path stands for it.
    Raises:
        Unwritable: nothing that can be imported does.
    """
    home, qualname = _home(thing)
    for name in (qualname, *_other_names(home, is_it)):
        path = f"{home}:{name}"
        if _PATH.fullmatch(path):
            try:
                if is_it(find(path)):
                    return path
            except NotFound:
                continue
    raise _unwritable(thing, home, qualname)


def find(path: str) -> Any:
    """What an import path names; importing a module runs it.

    A method of a `Workflow` class comes bound, as the class form binds it.

    Raises:
        NotFound: it is no import path, or there is no such module, or nothing of that name in it.
    """
    if not _PATH.fullmatch(path):
        raise NotFound(f"{path!r} is no import path", "write module:name")
    home, _, qualname = path.partition(":")
    try:
        found: Any = importlib.import_module(home)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{home}.".startswith(f"{error.name}."):
            raise
        advice = "modules are looked for where Python looks, and where `crucible` was started"
        raise NotFound(f"{path!r}: there is no module {error.name!r}", advice) from None
    for name in qualname.split("."):
        if isinstance(found, type) and issubclass(found, Workflow) and found is not Workflow:
            found = owner_of(found)
        try:
            found = getattr(found, name)
        except AttributeError:
            known = [key for key in dir(found) if not key.startswith("_")]
            near = did_you_mean(name, known)
            advice = near if near.startswith("did") else ""
            if home == "__main__":
                advice = "the program that wrote it held it itself; give it a module of its own"
            raise NotFound(f"{path!r}: there is no {name!r} in it", advice) from None
    return found


def _home(thing: Any) -> tuple[str, str]:
    """Module and qualified name; an empty module where it has none."""
    owner = getattr(thing, "__self__", None)
    if isinstance(owner, Workflow):  # a method may be inherited: the class it was taken from counts
        kind = type(owner)
        return kind.__module__, f"{kind.__qualname__}.{thing.__name__}"
    if isinstance(thing, Enum):
        return type(thing).__module__, f"{type(thing).__qualname__}.{thing.name}"
    named = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(getattr(named, "__module__", "") or ""), str(named.__qualname__)


def _other_names(home: str, is_it: Callable[[Any], bool]) -> Iterator[str]:
    for name, value in list(vars(sys.modules.get(home)).items() if home in sys.modules else ()):
        if not name.startswith("__") and is_it(value):
            yield name


def _same(one: Any, other: Any) -> bool:
    # Each look-up of a method makes a new object.
    is_method = hasattr(other, "__self__") and type(one) is type(other)
    return one is other or (is_method and bool(one == other))


def _unwritable(thing: Any, home: str, qualname: str) -> Unwritable:
    what = repr(qualname)
    advice = "give it a name at the top level of a module"
    if "<lambda>" in qualname:
        what, why = "a lambda", "has no name"
    elif "<locals>" in qualname:
        what, why = repr(qualname.rpartition(".")[2]), "is defined inside a function"
    elif callable(thing) and not hasattr(thing, "__qualname__"):
        what, why = f"an object of class {qualname!r}", "has no name in its module"
    else:
        why = f"is not what module {home!r} has under that name"
    return Unwritable(f"{what} {why}", advice, code_location(thing))
