"""`varlen_attention` in Triton: a program for each tile of queries or keys and head."""

# A jitted function has no types that mypy could check.
# mypy: disable-error-code="untyped-decorator,no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rows(ptr, rows, inside, head, heads, D, BLOCK_D: tl.constexpr):
    """One head's rows of a [T, heads, D], zeros outside."""
    at = tl.arange(0, BLOCK_D)
    places = (rows * heads + head)[:, None] * D + at
    return tl.load(ptr + places, inside[:, None] & (at < D)[None, :], other=0.0)  # [rows, BLOCK_D]


@triton.jit
def _put_rows(ptr, values, rows, inside, head, heads, D, BLOCK_D: tl.constexpr):
    at = tl.arange(0, BLOCK_D)
    places = (rows * heads + head)[:, None] * D + at
    mask = inside[:, None] & (at < D)[None, :]
    tl.store(ptr + places, values.to(ptr.dtype.element_ty), mask)


@triton.jit
def _seen(queries, inside_q, keys, inside_k, window):
    """Whether queries at some positions see keys at some."""
    distance = queries[:, None] - keys[None, :]
    near = (distance < window) | (window == 0)
    return inside_q[:, None] & inside_k[None, :] & (distance >= 0) & near


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr, tiles_ptr, bounds_ptr, parents_ptr, positions_ptr,
    A, G, D, scale, window,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    segment = tl.load(tiles_ptr + 2 * tl.program_id(0))
    first = tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    rows = first + tl.arange(0, BLOCK_M)  # int64, as the tiles
    inside = rows < tl.load(bounds_ptr + segment + 1)
    at = rows - tl.load(bounds_ptr + segment) + tl.load(positions_ptr + segment)
    q = _rows(q_ptr, rows, inside, head, A, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    most = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    out = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    up = segment
    while up >= 0:
        begin = tl.load(bounds_ptr + up)
        end = tl.load(bounds_ptr + up + 1)
        last = tl.minimum(end, tl.where(up == segment, first + BLOCK_M, end))
        for key in range(begin, last, BLOCK_N):
            keys = key + tl.arange(0, BLOCK_N)
            there = keys < end
            k = _rows(k_ptr, keys, there, head // (A // G), G, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
            v = _rows(v_ptr, keys, there, head // (A // G), G, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
            scores = scale * tl.dot(q, tl.trans(k), input_precision=PRECISION)
            places = keys - begin + tl.load(positions_ptr + up)
            seen = _seen(at, inside, places, there, window)
            now = tl.maximum(most, tl.max(tl.where(seen, scores, -1e30), 1))
            p = tl.exp(tl.where(seen, scores - now[:, None], -1e30))
            shrinks = tl.exp(most - now)
            total = total * shrinks + tl.sum(p, 1)
            out = out * shrinks[:, None]
            out += tl.dot(p.to(v.dtype), v, input_precision=PRECISION)
            most = now
        up = tl.load(parents_ptr + up)
    total = tl.where(inside, total, 1.0)
    _put_rows(out_ptr, out / total[:, None], rows, inside, head, A, D, BLOCK_D)
    tl.store(lse_ptr + rows * A + head, most + tl.log(total), inside)


@triton.jit
def _grad_q(
    dout_ptr, q_ptr, k_ptr, v_ptr, lse_ptr, along_ptr, dq_ptr,
    tiles_ptr, bounds_ptr, parents_ptr, positions_ptr,
    A, G, D, scale, window,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1)
    segment = tl.load(tiles_ptr + 2 * tl.program_id(0))
    first = tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    rows = first + tl.arange(0, BLOCK_M)
    inside = rows < tl.load(bounds_ptr + segment + 1)
    at = rows - tl.load(bounds_ptr + segment) + tl.load(positions_ptr + segment)
    q = _rows(q_ptr, rows, inside, head, A, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    dout = _rows(dout_ptr, rows, inside, head, A, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
    lse = tl.load(lse_ptr + rows * A + head, inside, other=0.0)  # [BLOCK_M]
    along = tl.load(along_ptr + rows * A + head, inside, other=0.0)  # [BLOCK_M]
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    up = segment
    while up >= 0:
        begin = tl.load(bounds_ptr + up)
        end = tl.load(bounds_ptr + up + 1)
        last = tl.minimum(end, tl.where(up == segment, first + BLOCK_M, end))
        for key in range(begin, last, BLOCK_N):
            keys = key + tl.arange(0, BLOCK_N)
            there = keys < end
            k = _rows(k_ptr, keys, there, head // (A // G), G, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
            v = _rows(v_ptr, keys, there, head // (A // G), G, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
            scores = scale * tl.dot(q, tl.trans(k), input_precision=PRECISION)
            places = keys - begin + tl.load(positions_ptr + up)
            seen = _seen(at, inside, places, there, window)
            p = tl.exp(tl.where(seen, scores - lse[:, None], -1e30))
            slopes = p * (tl.dot(dout, tl.trans(v), input_precision=PRECISION) - along[:, None])
            dq += tl.dot(slopes.to(k.dtype), k, input_precision=PRECISION)
        up = tl.load(parents_ptr + up)
    _put_rows(dq_ptr, scale * dq, rows, inside, head, A, D, BLOCK_D)


@triton.jit
def _grad_kv(
    dout_ptr, q_ptr, k_ptr, v_ptr, lse_ptr, along_ptr, dk_ptr, dv_ptr,
    tiles_ptr, bounds_ptr, positions_ptr, reach_ptr, reached_ptr,
    A, G, D, scale, window,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(1)
    segment = tl.load(tiles_ptr + 2 * tl.program_id(0))
    first = tl.load(tiles_ptr + 2 * tl.program_id(0) + 1)
    keys = first + tl.arange(0, BLOCK_N)
    there = keys < tl.load(bounds_ptr + segment + 1)
    places = keys - tl.load(bounds_ptr + segment) + tl.load(positions_ptr + segment)
    k = _rows(k_ptr, keys, there, group, G, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
    v = _rows(v_ptr, keys, there, group, G, D, BLOCK_D)  # [BLOCK_N, BLOCK_D]
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    # The segments whose queries see these keys: this one, and all that continue it.
    for number in range(tl.load(reach_ptr + segment), tl.load(reach_ptr + segment + 1)):
        down = tl.load(reached_ptr + number)
        begin = tl.load(bounds_ptr + down)
        end = tl.load(bounds_ptr + down + 1)
        for query in range(tl.where(down == segment, first, begin), end, BLOCK_M):
            rows = query + tl.arange(0, BLOCK_M)
            inside = rows < end
            at = rows - begin + tl.load(positions_ptr + down)
            seen = _seen(at, inside, places, there, window)
            for head in range(group * (A // G), (group + 1) * (A // G)):
                q = _rows(q_ptr, rows, inside, head, A, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
                dout = _rows(dout_ptr, rows, inside, head, A, D, BLOCK_D)  # [BLOCK_M, BLOCK_D]
                lse = tl.load(lse_ptr + rows * A + head, inside, other=0.0)  # [BLOCK_M]
                along = tl.load(along_ptr + rows * A + head, inside, other=0.0)  # [BLOCK_M]
                scores = scale * tl.dot(q, tl.trans(k), input_precision=PRECISION)
                p = tl.exp(tl.where(seen, scores - lse[:, None], -1e30))
                slopes = tl.dot(dout, tl.trans(v), input_precision=PRECISION)
                slopes = p * (slopes - along[:, None])
                dv += tl.dot(tl.trans(p.to(q.dtype)), dout, input_precision=PRECISION)
                dk += tl.dot(tl.trans(slopes.to(q.dtype)), q, input_precision=PRECISION)
    _put_rows(dk_ptr, scale * dk, keys, there, group, G, D, BLOCK_D)
    _put_rows(dv_ptr, dv, keys, there, group, G, D, BLOCK_D)
