"""Every loss function against its formula in float64, values and gradients."""

import numpy as np
import pytest
import torch

from crucible_kitchen.adapters.local.losses import PER_TOKEN
from crucible_kitchen.ports import LOSSES, check_loss

LO, HI, BETA = 0.8, 1.2, 0.05


def in_float64(name, lp, q, a):
    """(loss, d loss / d lp), written out by hand."""
    r = np.exp(lp - q)
    clipped = np.clip(r, LO, HI)
    if name == "cross_entropy":
        return -lp, -np.ones_like(lp)
    if name == "importance_sampling":
        return -r * a, -r * a
    if name == "ppo":
        unclipped = r * a <= clipped * a
        return -np.minimum(r * a, clipped * a), np.where(unclipped, -r * a, 0.0)
    if name == "cispo":
        return -clipped * lp * a, -clipped * a
    return -(lp * a - BETA / 2 * (lp - q) ** 2), -(a - BETA * (lp - q))


def test_every_loss_of_the_port_is_here():
    assert PER_TOKEN.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients(name):
    draw = np.random.default_rng(4)
    lp, a = draw.normal(-2, 1, 500), draw.normal(0, 1, 500)
    q = lp - draw.normal(0, 0.4, 500)  # ratios on both sides of both thresholds
    ratio = np.exp(lp - q)
    assert (ratio < LO).any()
    assert (ratio > HI).any()
    x = torch.tensor(lp, requires_grad=True)
    inputs = {"logprobs": torch.tensor(q), "advantages": torch.tensor(a)}
    losses = PER_TOKEN[name](x, inputs, check_loss(name))
    losses.sum().backward()
    value, slope = in_float64(name, lp, q, a)
    np.testing.assert_allclose(losses.detach().numpy(), value, rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), slope, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "cross_entropy"])
def test_through_the_client(start, local_client, sequences, name):
    session = start()
    draw = np.random.default_rng(4)
    plain = [
        {
            "model_input": tokens,
            "loss_fn_inputs": {"target_tokens": [*tokens[1:], 7], "weights": [1.0] * len(tokens)},
        }
        for tokens in sequences
    ]
    before = local_client.forward(session, plain).result()
    rows, wanted, count = [], 0.0, 0
    for datum, output in zip(plain, before.loss_fn_outputs, strict=True):
        lp = output["logprobs"].numpy().astype(np.float64)
        q = (lp - draw.normal(0, 0.4, len(lp))).astype(np.float32)
        a = draw.normal(0, 1, len(lp)).astype(np.float32)
        inputs = {"target_tokens": datum["loss_fn_inputs"]["target_tokens"]}
        rows.append({**datum, "loss_fn_inputs": {**inputs, "logprobs": q, "advantages": a}})
        wanted += in_float64(name, lp, q.astype(np.float64), a.astype(np.float64))[0].sum()
        count += len(lp)
    result = local_client.forward_backward(session, rows, name).result()
    assert result.metrics["loss:sum"] == pytest.approx(wanted, rel=1e-4)
    assert result.loss == pytest.approx(wanted / count, rel=1e-4)
    assert local_client.optim_step(session, 1e-3).result().grad_norm > 0


def test_settings_reach_the_formula():
    lp = torch.zeros(1, dtype=torch.float64)
    inputs = {"logprobs": lp - np.log(3.0), "advantages": torch.ones(1, dtype=torch.float64)}
    settings = check_loss("ppo", {"clip_high_threshold": 2.0})
    assert PER_TOKEN["ppo"](lp, inputs, settings).item() == pytest.approx(-2.0)
    settings = check_loss("dro", {"beta": 1.0})
    assert PER_TOKEN["dro"](lp, inputs, settings).item() == pytest.approx(np.log(3.0) ** 2 / 2)
