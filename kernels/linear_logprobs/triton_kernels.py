"""`linear_logprobs` on tensor cores: two matrix products forward, two more for the head's gradient.

A block of the vocabulary at a time, `_score` leaves exp(logit - tile maximum) in a scratch of the
inputs' dtype and each tile's statistics in float32; the logits themselves live in registers only.
`_merge` joins the statistics, `_gather_slope` multiplies the scratch by the block of the head.
A target's own entry stays out of the scratch: 1 - p is a sum over the other tokens, never a
difference, and a confident token keeps its gradient in bfloat16.

Letters: T tokens, H hidden, V vocabulary, C columns of the block at hand.
"""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _score(
    x_ptr, w_ptr, targets_ptr, scratch_ptr, tile_max_ptr, tile_sum_ptr, tile_total_ptr,
    target_logit_ptr, lse_ptr, at_target_ptr, grad_ptr,
    T, H, first, columns, softcap, even_share,
    SOFTCAP: tl.constexpr, TOTALS: tl.constexpr, STORE: tl.constexpr, GIVEN_LSE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of logits, turned into weights of the head's rows before it leaves the registers.

    Without GIVEN_LSE the scratch gets exp(logit - maximum of the tile) and the statistics are
    written; with it, grad_t (even_share - p_tv), and at_target_t in the target's place.
    """
    tiles_t = tl.cdiv(T, BLOCK_T)
    tiles_v = tl.cdiv(columns, BLOCK_V)
    pid_t, pid_v = tl.swizzle2d(
        tl.program_id(0) // tiles_v, tl.program_id(0) % tiles_v, tiles_t, tiles_v, 8
    )
    ts = pid_t.to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    cs = pid_v * BLOCK_V + tl.arange(0, BLOCK_V)
    vs = (first + cs).to(tl.int64)
    hs = tl.arange(0, BLOCK_H)
    row = ts < T
    column = cs < columns

    z = tl.zeros((BLOCK_T, BLOCK_V), dtype=tl.float32)
    for h in range(0, H, BLOCK_H):
        inside = h + hs < H
        x = tl.load(
            x_ptr + ts[:, None] * H + (h + hs)[None, :], row[:, None] & inside[None, :], other=0.0
        )  # [BLOCK_T, BLOCK_H]
        w = tl.load(
            w_ptr + vs[None, :] * H + (h + hs)[:, None],
            inside[:, None] & column[None, :],
            other=0.0,
        )  # [BLOCK_H, BLOCK_V]
        z = tl.dot(x, w, z, input_precision=PRECISION)

    # Counted from the block's first column it fits 32 bits; a token past the end has none.
    target = (tl.load(targets_ptr + ts, row, other=-1) - first).to(tl.int32)  # [BLOCK_T]
    is_target = cs[None, :] == target[:, None]  # [BLOCK_T, BLOCK_V]
    if SOFTCAP:
        z = softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0)

    if GIVEN_LSE:
        lse = tl.load(lse_ptr + ts, row, other=0.0)  # [BLOCK_T]
        at_target = tl.load(at_target_ptr + ts, row, other=0.0)  # [BLOCK_T]
        grad = tl.load(grad_ptr + ts, row, other=0.0)  # [BLOCK_T]
        pull = tl.where(is_target, at_target[:, None], even_share - tl.exp(z - lse[:, None]))
        entry = pull * grad[:, None]  # [BLOCK_T, BLOCK_V]
    else:
        others = tl.where(is_target | (column[None, :] == 0), float("-inf"), z)
        top = tl.max(others, axis=1)  # [BLOCK_T]
        base = tl.where(top > float("-inf"), top, 0.0)  # a tile of nothing but the target
        entry = tl.exp(others - base[:, None])  # [BLOCK_T, BLOCK_V]
        at_tile = pid_v.to(tl.int64) * T + ts
        tl.store(tile_max_ptr + at_tile, top, row)
        tl.store(tile_sum_ptr + at_tile, tl.sum(entry, axis=1), row)
        if TOTALS:
            total = tl.sum(tl.where(column[None, :], z, 0.0), axis=1)
            tl.store(tile_total_ptr + at_tile, total, row)
        mine = row & (target >= pid_v * BLOCK_V) & (target < pid_v * BLOCK_V + BLOCK_V)
        tl.store(target_logit_ptr + ts, tl.sum(tl.where(is_target, z, 0.0), axis=1), mine)

    if STORE:
        if SOFTCAP:  # the derivative of the bounded logit in the raw one
            entry *= 1.0 - (z / softcap) * (z / softcap)
        tl.store(
            scratch_ptr + ts[:, None] * columns + cs[None, :],
            entry.to(scratch_ptr.dtype.element_ty),
            row[:, None] & column[None, :],
        )


@triton.jit
def _merge(
    tile_max_ptr, tile_sum_ptr, tile_total_ptr, max_ptr, sum_ptr, total_ptr, rescale_ptr,
    T, tiles_v,
    TOTALS: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """Joins one block's tile statistics to the running ones; tile_max becomes the tile's factor."""
    ts = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    row = ts < T
    before = tl.load(max_ptr + ts, row, other=float("-inf"))  # [BLOCK_T]
    top = before
    at = ts
    for _ in range(tiles_v):
        top = tl.maximum(top, tl.load(tile_max_ptr + at, row, other=float("-inf")))
        at += T
    base = tl.where(top > float("-inf"), top, 0.0)
    rescale = tl.exp(before - base)
    running = rescale * tl.load(sum_ptr + ts, row, other=0.0)  # [BLOCK_T]
    total = tl.zeros((BLOCK_T,), dtype=tl.float32)
    at = ts
    for _ in range(tiles_v):
        factor = tl.exp(tl.load(tile_max_ptr + at, row, other=float("-inf")) - base)  # [BLOCK_T]
        running += factor * tl.load(tile_sum_ptr + at, row, other=0.0)
        tl.store(tile_max_ptr + at, factor, row)
        if TOTALS:
            total += tl.load(tile_total_ptr + at, row, other=0.0)
        at += T
    tl.store(max_ptr + ts, top, row)
    tl.store(sum_ptr + ts, running, row)
    tl.store(rescale_ptr + ts, rescale, row)
    if TOTALS:
        tl.store(total_ptr + ts, total + tl.load(total_ptr + ts, row, other=0.0), row)


@triton.jit
def _gather_slope(
    scratch_ptr, w_ptr, factor_ptr, rescale_ptr, slope_ptr,
    T, H, first, columns,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """slope = rescale slope + sum over the block of scratch times the rows of the head."""
    pid_h = tl.program_id(1)
    ts = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    hs = pid_h.to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    row = ts < T
    inside = hs < H
    out = slope_ptr + ts[:, None] * H + hs[None, :]
    rescale = tl.load(rescale_ptr + ts, row, other=0.0)  # [BLOCK_T]
    slope = tl.load(out, row[:, None] & inside[None, :], other=0.0) * rescale[:, None]
    at_tile = ts
    for c in range(0, columns, BLOCK_V):
        cs = (c + tl.arange(0, BLOCK_V)).to(tl.int64)
        column = cs < columns
        entry = tl.load(
            scratch_ptr + ts[:, None] * columns + cs[None, :],
            row[:, None] & column[None, :],
            other=0.0,
        )  # [BLOCK_T, BLOCK_V]
        w = tl.load(
            w_ptr + (first + cs)[:, None] * H + hs[None, :],
            column[:, None] & inside[None, :],
            other=0.0,
        )  # [BLOCK_V, BLOCK_H]
        # The factor goes on the float32 product: on the entry it would round a second time.
        factor = tl.load(factor_ptr + at_tile, row, other=0.0)  # [BLOCK_T]
        slope += tl.dot(entry, w, input_precision=PRECISION) * factor[:, None]
        at_tile += T
    tl.store(out, slope, row[:, None] & inside[None, :])


@triton.jit
def _gather_head(
    scratch_ptr, x_ptr, dw_ptr, unlift_ptr,
    T, H, first, columns,
    BLOCK_T: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_H: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows [first, first + columns) of the head's gradient: scratch^T x, over all tokens."""
    cs = tl.program_id(0).to(tl.int64) * BLOCK_V + tl.arange(0, BLOCK_V)
    hs = tl.program_id(1).to(tl.int64) * BLOCK_H + tl.arange(0, BLOCK_H)
    column = cs < columns
    inside = hs < H
    dw = tl.zeros((BLOCK_V, BLOCK_H), dtype=tl.float32)
    for t in range(0, T, BLOCK_T):
        ts = (t + tl.arange(0, BLOCK_T)).to(tl.int64)
        row = ts < T
        entry = tl.load(
            scratch_ptr + ts[None, :] * columns + cs[:, None],
            row[None, :] & column[:, None],
            other=0.0,
        )  # [BLOCK_V, BLOCK_T]
        x = tl.load(
            x_ptr + ts[:, None] * H + hs[None, :], row[:, None] & inside[None, :], other=0.0
        )  # [BLOCK_T, BLOCK_H]
        dw = tl.dot(entry, x, dw, input_precision=PRECISION)
    dw *= tl.load(unlift_ptr)
    tl.store(
        dw_ptr + (first + cs)[:, None] * H + hs[None, :],
        dw.to(dw_ptr.dtype.element_ty),
        column[:, None] & inside[None, :],
    )
