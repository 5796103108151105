"""How a stage written as a class runs: it is handed the whole context, and gives the next one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from crucible_kitchen.context import Context
from crucible_kitchen.graph import StageNode
from crucible_kitchen.graph.executors import is_async

from .runtime import BorderError, Runtime

if TYPE_CHECKING:
    from crucible_kitchen.graph import Stage


def executed(node: StageNode, rt: Runtime) -> Callable[[], None]:
    """A closure that validates and executes a stage, and takes over the context it gives."""
    stage: Stage = node.call
    options = {name: getattr(stage, name) for name in type(stage).model_fields}
    awaited = is_async(node)

    def execute() -> None:
        for read in node.reads:
            if read.key not in rt.values:
                raise rt.missing(read.key)
        ctx = rt.context(rt.prefix + node.name, options)
        stage.validate(ctx)
        try:
            result: Any = stage.execute(ctx)
            if awaited:
                result = rt.wait(result, node.timeout)
            _adopt(node, ctx, result, rt, strict=True)
        except BaseException as error:
            _adopt(node, ctx, stage.rollback(ctx, error), rt, strict=False)
            raise

    return execute


def _adopt(node: StageNode, before: Context, after: Any, rt: Runtime, *, strict: bool) -> None:
    """Take over what a context has more than the one it came from."""
    if not isinstance(after, Context):
        method = "execute" if strict else "rollback"
        raise BorderError(f"{method} must return a Context, got {type(after).__name__}")
    old = before.state
    changed = {k: v for k, v in after.state.items() if k not in old or v is not old[k]}
    shadowing = [key for key in changed if key in rt.config]
    if shadowing:
        raise BorderError(f"writes {shadowing[0]!r}, which is a key of the config")
    if strict and not node.opaque:
        declared = {write.key for write in node.writes}
        for key in changed:
            if key not in declared:
                raise BorderError(
                    f"writes {key!r}, which it does not declare; declared: {sorted(declared)}"
                )
        for key in declared:
            if key not in after.state:
                raise BorderError(f"declares that it writes {key!r}, but did not")
    for key, value in changed.items():
        rt.put(key, value)
    rt.base = rt.base.replace(_metadata=dict(after.metadata))
