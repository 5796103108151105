"""A module's forward replaced on the module itself, so that it stays what it is in all else.

Its class, names, hooks and weights are untouched. A copy of the model computes as the model does;
a pickled one comes back with the forwards of its classes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

from torch import nn


class Switch:
    """Whether the forwards put in under it run; off, every module runs its class's own.

    Shared by copies of a model. It is what remains where somebody has wrapped such a forward and
    it cannot be taken out again.
    """

    def __init__(self, on: bool = True) -> None:
        self.on = on

    def __deepcopy__(self, memo: dict[int, Any]) -> Switch:
        return self

    def __reduce__(self) -> tuple[type[Switch], tuple[bool]]:
        return Switch, (False,)


def put_forward(module: nn.Module, forward: Callable[..., Any], switch: Switch) -> None:
    """Let a module run `forward(module, *args, **kwargs)`; NotImplemented asks for what it ran.

    That is its class's own; or, where somebody has replaced it (see `is_replaced`) and `forward`
    knows how to go round it, theirs.
    """
    theirs = module.__dict__.get("forward")
    before = getattr(theirs, "__func__", type(module).forward)

    # Trainers read the parameters of a model's forward; pickle looks it up by its name.
    @functools.wraps(before)
    def ours(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if switch.on:
            made = forward(self, *args, **kwargs)
            if made is not NotImplemented:
                return made
        return before(self, *args, **kwargs)

    ours.__name__ = "forward"
    ours.__dict__.update(switch=switch, runs=forward, theirs=theirs)
    module.forward = MethodType(ours, module)


def take_forward(module: nn.Module, switch: Switch) -> bool:
    """Take out what `put_forward` put in; False if somebody has replaced it since."""
    function: Any = getattr(module.__dict__.get("forward"), "__func__", None)
    if getattr(function, "switch", None) is not switch:
        return False
    del module.__dict__["forward"]
    if function.theirs is not None:
        module.__dict__["forward"] = function.theirs
    return True


def is_replaced(module: nn.Module) -> bool:
    """Whether a module runs another forward than its class's: ours, or somebody's."""
    return "forward" in module.__dict__
