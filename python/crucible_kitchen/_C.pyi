"""Checked doors to the compiled kernels: outputs are allocated by the caller and written here."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

grad_norm_chunk: int
row_loss_divergences: list[str]
row_loss_formulas: list[str]

class CubinFamily:
    def select(self, args: Sequence[Any]) -> str: ...
    def launch(self, grid: Sequence[int], args: Sequence[Any]) -> None: ...

class Cubins:
    def __init__(self, path: str = "") -> None: ...
    @property
    def architectures(self) -> set[int]: ...
    def listed(self) -> list[dict[str, Any]]: ...
    def family(self, kernel: str, architecture: int, configuration: str) -> CubinFamily: ...

def isa() -> str: ...
def thread_runtime() -> str: ...
def why_no_cuda() -> str: ...
def only_of(args: tuple[Any, ...], types: frozenset[Any]) -> bool: ...
def alike_on_cpu(*lists: Sequence[Tensor]) -> bool: ...
def decoder_layer_forward(
    x: Tensor,
    norms: tuple[tuple[Tensor, float], ...],
    attention: tuple[Any, ...],
    linears: tuple[tuple[Any, ...], ...],
    threads: int,
) -> tuple[Tensor, Tensor]: ...
def decoder_layer_backward(
    dy: Tensor,
    x: Tensor,
    kept: Tensor,
    norms: tuple[tuple[Tensor, float], ...],
    attention: tuple[Any, ...],
    linears: tuple[tuple[Any, ...], ...],
    wanted: Sequence[tuple[bool, bool]],
    wants_x: bool,
    threads: int,
) -> tuple[Tensor | None, list[Tensor | None]]: ...
def pages_unwritten(tensor: Tensor) -> bool: ...
def pages_give_back(tensor: Tensor) -> bool: ...

# lists, norm, steps, numbers, stochastic_rounding, seed, as the docstring of the first has them.
def adamw_step_cpu(*args: Any, threads: int) -> None: ...
def adamw_step_cuda(*args: Any) -> None: ...
def grad_norm_cpu(grads: Sequence[Tensor], threads: int) -> float: ...
def grad_norm_cuda(grads: Sequence[Tensor], partials: Tensor, norm: Tensor) -> None: ...
def linear_logprobs_forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float,
    smoothing: float,
    even_row: Tensor | None,
    logprobs: Tensor,
    lse: Tensor,
    miss: Tensor,
    slope: Tensor | None,
    eps: float,
    seed: int,
    sure: Tensor | None,
    threads: int,
) -> None: ...
def linear_logprobs_grad_weight(
    grad: Tensor,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    lse: Tensor,
    miss: Tensor,
    softcap: float,
    smoothing: float,
    grad_weight: Tensor,
    threads: int,
) -> None: ...
def linear_logprobs_sum_gradients(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    smoothing: float,
    factors: Tensor,
    logprobs: Tensor,
    grad_hidden: Tensor,
    grad_weight: Tensor,
    threads: int,
) -> None: ...
def lora_linear_multiplies_int16() -> bool: ...
def lora_linear_panels_numel(N: int, K: int, backward: bool, int16: bool = False) -> int: ...
def lora_linear_pack(weight: Tensor, panels: Tensor, backward: bool, threads: int) -> None: ...
def lora_linear_panels_hold(weight: Tensor, panels: Tensor, backward: bool) -> bool: ...
def lora_linear_forward_alone(
    x: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    bias: Tensor | None,
    scale: float,
    panels: Tensor,
    look: bool,
    y: Tensor,
    threads: int,
) -> bool: ...
def lora_linear_forward(
    x: Tensor,
    panels: Sequence[Tensor],
    biases: Sequence[Tensor],
    ys: Sequence[Tensor],
    rows: Sequence[int],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scales: Sequence[float],
    xa: Tensor | None,
    dropout: float,
    seeds: Sequence[int],
    threads: int,
) -> None: ...
def lora_linear_backward(
    x: Tensor | None,
    panels: Sequence[Tensor | None],
    dys: Sequence[Tensor],
    rows: Sequence[int],
    lora_as: Sequence[Tensor],
    lora_bs: Sequence[Tensor],
    scales: Sequence[float],
    xa: Tensor,
    dropout: float,
    seeds: Sequence[int],
    dx: Tensor | None,
    das: Sequence[Tensor | None],
    dbs: Sequence[Tensor | None],
    threads: int,
) -> None: ...
def rms_norm_fits(x: Tensor, weight: Tensor) -> bool: ...
def rms_norm_forward(
    x: Tensor, weight: Tensor, eps: float, y: Tensor, rstd: Tensor | None, threads: int
) -> None: ...

# dy, x, weight, rstd: Tensor; dx, dweight: Tensor | None; threads: int. The caller spreads a tuple.
def rms_norm_backward(*args: Any) -> None: ...
def rope_rotate(
    x: Tensor, cos: Tensor, sin: Tensor, back: bool, y: Tensor, threads: int
) -> None: ...

# columns, terms, divergence, numbers, loss, slopes, as the docstring of the first has them; then
# the number of threads.
def row_loss_cpu(*args: Any) -> None: ...
def row_loss_cuda(*args: Any) -> None: ...
def swiglu_fits(gate: Tensor, up: Tensor) -> bool: ...
def swiglu_forward(gate: Tensor, up: Tensor, y: Tensor, threads: int) -> None: ...

# dy, gate, up, dgate, dup: Tensor; threads: int. The caller spreads a tuple.
def swiglu_backward(*args: Any) -> None: ...
def varlen_attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens: Tensor,
    parents: Tensor | None,
    scale: float,
    window: int,
    out: Tensor,
    lse: Tensor,
    threads: int,
) -> None: ...

# dout, q, k, v, out, lse, cu_seqlens: Tensor; parents: Tensor | None; scale: float; window: int;
# dq, dk, dv: Tensor; threads: int. The caller spreads tuples.
def varlen_attention_backward(*args: Any) -> None: ...
