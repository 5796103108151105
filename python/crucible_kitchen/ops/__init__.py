"""The ops: plain functions on torch tensors, each with a table of kernels to choose from.

Kernels load when they first run, so importing this package costs torch and nothing else.
"""

from __future__ import annotations

from typing import Any

from crucible_kitchen.errors import KernelError, did_you_mean
from crucible_kitchen.kernels.row_loss.preference import DIVERGENCES
from crucible_kitchen.ops._linear_logprobs_table import LINEAR_LOGPROBS
from crucible_kitchen.ops._recomputing import recomputing
from crucible_kitchen.ops._table import Explanation, Kernel, Op, using
from crucible_kitchen.ops.adamw_step import ADAMW_STEP, adamw_step
from crucible_kitchen.ops.dora_linear import dora_linear, dora_norm
from crucible_kitchen.ops.dpo_loss import DPO_LOSSES, WITH_MARGINS, answer_logprobs, dpo_loss
from crucible_kitchen.ops.grad_norm import GRAD_NORM, grad_norm
from crucible_kitchen.ops.linear_cross_entropy import linear_cross_entropy
from crucible_kitchen.ops.linear_logprobs import linear_logprobs
from crucible_kitchen.ops.lora_linear import LORA_LINEAR, lora_linear
from crucible_kitchen.ops.lora_linear_many import LORA_LINEAR_MANY, lora_linear_many
from crucible_kitchen.ops.pairwise_loss import pairwise_loss
from crucible_kitchen.ops.policy_loss import POLICY_LOSSES, policy_loss
from crucible_kitchen.ops.rms_norm import RMS_NORM, rms_norm
from crucible_kitchen.ops.rope import ROPE, rope
from crucible_kitchen.ops.row_loss import ROW_LOSS, row_loss
from crucible_kitchen.ops.swiglu import SWIGLU, swiglu
from crucible_kitchen.ops.varlen_attention import VARLEN_ATTENTION, varlen_attention

# One line an op: tests, benchmarks and `explain` walk this table.
OPS: dict[str, Op] = {
    "adamw_step": ADAMW_STEP,
    "grad_norm": GRAD_NORM,
    "linear_logprobs": LINEAR_LOGPROBS,
    "lora_linear": LORA_LINEAR,
    "lora_linear_many": LORA_LINEAR_MANY,
    "rms_norm": RMS_NORM,
    "rope": ROPE,
    "row_loss": ROW_LOSS,
    "swiglu": SWIGLU,
    "varlen_attention": VARLEN_ATTENTION,
}


def explain(name: str, *args: Any, **options: Any) -> Explanation:
    """Which kernel (``cuda | triton | cpu | reference``) would run an op, and why not the others.

    Args:
        name: name of the op, such as ``lora_linear``.
        *args: what the op would be called with.
        **options: likewise.

    Returns:
        A value that prints as a short table.

    Raises:
        KernelError: there is no such op.
    """
    if name not in OPS:
        raise KernelError(f"explain: no op {name!r}; {did_you_mean(name, OPS)}")
    return OPS[name].explain(*args, **options)


__all__ = [
    "DIVERGENCES",
    "DPO_LOSSES",
    "OPS",
    "POLICY_LOSSES",
    "WITH_MARGINS",
    "Explanation",
    "Kernel",
    "Op",
    "adamw_step",
    "answer_logprobs",
    "dora_linear",
    "dora_norm",
    "dpo_loss",
    "explain",
    "grad_norm",
    "linear_cross_entropy",
    "linear_logprobs",
    "lora_linear",
    "lora_linear_many",
    "pairwise_loss",
    "policy_loss",
    "recomputing",
    "rms_norm",
    "rope",
    "row_loss",
    "swiglu",
    "using",
    "varlen_attention",
]
