"""The definition of `varlen_attention`, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from .variant import Forward, Gradients, Segments, Variant


def forward(
    q_TAD: Tensor, k_TGD: Tensor, v_TGD: Tensor, segments: Segments, scale: float, window: int
) -> Forward:
    """Softmax over what each query sees, written out; every [T, T] of it is there."""
    q, k, v = _heads(q_TAD, k_TGD, v_TGD)
    scores = _scores(q, k, segments, scale, window)
    lse = torch.logsumexp(scores, dim=-1)
    out = torch.exp(scores - lse[..., None]) @ v
    wide = torch.promote_types(q_TAD.dtype, torch.float32)
    return Forward(out.transpose(0, 1).to(q_TAD.dtype), lse.T.to(wide))


def backward(
    dout_TAD: Tensor,
    q_TAD: Tensor,
    k_TGD: Tensor,
    v_TGD: Tensor,
    out_TAD: Tensor,
    lse_TA: Tensor,
    segments: Segments,
    scale: float,
    window: int,
) -> Gradients:
    """dv = p^T dout;  ds = p (dout v^T - dout . out);  dq = scale ds k;  dk = scale ds^T q."""
    (T, A, D), G = q_TAD.shape, k_TGD.shape[1]
    q, k, v = _heads(q_TAD, k_TGD, v_TGD)
    dout, out = (t.double().transpose(0, 1) for t in (dout_TAD, out_TAD))
    scores = _scores(q, k, segments, scale, window)
    p = torch.exp(scores - lse_TA.double().T[..., None])
    ds = scale * p * (dout @ v.mT - (dout * out).sum(-1, keepdim=True))
    dq, dk, dv = (t.transpose(0, 1) for t in (ds @ k, ds.mT @ q, p.mT @ dout))
    dk, dv = (t.reshape(T, G, A // G, D).sum(2) for t in (dk, dv))
    return Gradients(dq.to(q_TAD.dtype), dk.to(k_TGD.dtype), dv.to(v_TGD.dtype))


def _heads(q_TAD: Tensor, k_TGD: Tensor, v_TGD: Tensor) -> list[Tensor]:
    """[A, T, D] each: a key-value head is there for every query head of its group."""
    heads = q_TAD.shape[1] // k_TGD.shape[1]
    wide = (q_TAD, k_TGD.repeat_interleave(heads, 1), v_TGD.repeat_interleave(heads, 1))
    return [t.double().transpose(0, 1) for t in wide]


def _scores(q: Tensor, k: Tensor, segments: Segments, scale: float, window: int) -> Tensor:
    unseen = ~seen(segments, window).to(q.device)
    return (scale * q @ k.mT).masked_fill(unseen, -torch.inf)


def seen(segments: Segments, window: int) -> Tensor:
    """Whether a query (row) sees a key (column), bool [T, T]."""
    bounds: list[int] = segments.bounds.tolist()
    count = len(bounds) - 1
    parents = [-1] * count if segments.parents is None else segments.parents.tolist()
    mask = torch.zeros(bounds[-1], bounds[-1], dtype=torch.bool)
    paths: list[Tensor] = []
    for i in range(count):
        own = torch.arange(bounds[i], bounds[i + 1])
        path = own if parents[i] < 0 else torch.cat((paths[parents[i]], own))
        paths.append(path)
        positions = torch.arange(len(path))
        distance = positions[len(path) - len(own) :, None] - positions
        mask[own[:, None], path] = (distance >= 0) & ((distance < window) | (window == 0))
    return mask


varlen_attention = Variant(forward, backward)
