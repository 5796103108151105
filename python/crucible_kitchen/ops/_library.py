"""Where all ops are registered with torch, as ``torch.ops.crucible_kitchen.NAME``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

# Any: torch does not annotate Library's methods.
_LIBRARY: Any = torch.library.Library("crucible_kitchen", "DEF")  # type: ignore[no-untyped-call]


def register(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    setup_context: Callable[..., None] | None = None,
    backward: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register an op and return it. `Library.define` calls cost half of what `custom_op` calls do.

    Args:
        schema: such as ``grad_norm(Tensor[] grads) -> Tensor``.
        run: computes it, on any device: choosing a kernel is the table's task, not torch's.
        fake: gives outputs of the right shape, dtype and device without computing.
        setup_context: saves for backward, as `torch.library.register_autograd` takes it.
        backward: likewise; without it the op cannot be differentiated.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    qualified = f"crucible_kitchen::{name}"
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(
            qualified, backward, setup_context=setup_context, lib=_LIBRARY
        )
    op: Callable[..., Any] = getattr(torch.ops.crucible_kitchen, name).default
    return op
