"""Losses of preference optimization: against formulas written out in float64, and by their laws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen import ops
from crucible_kitchen.ops import DIVERGENCES, DPO_LOSSES, answer_logprobs, dpo_loss

POLICY_C = [-12.0, -3.5, -40.25, -7.0]
POLICY_R = [-15.0, -3.0, -38.0, -29.0]
REFERENCE_C = [-13.0, -3.5, -41.0, -11.0]
REFERENCE_R = [-13.5, -3.25, -37.0, -12.0]
LENGTHS_C, LENGTHS_R = [6.0, 2.0, 20.0, 5.0], [7.0, 3.0, 11.0, 9.0]
BETA, SMOOTHING, MEAN, TAU = 0.3, 0.2, 0.15, 0.05


def tensors(dtype=torch.float64):
    columns = POLICY_C, POLICY_R, REFERENCE_C, REFERENCE_R
    return [torch.tensor(column, dtype=dtype) for column in columns]


def options(loss, **more):
    lengths = [torch.tensor(values, dtype=torch.float64) for values in (LENGTHS_C, LENGTHS_R)]
    return {
        "loss": loss,
        "beta": BETA,
        "chosen_lengths": lengths[0],
        "rejected_lengths": lengths[1],
        "reward_mean": MEAN,
        **more,
    }


def log_s(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def s(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def by_hand(loss: str, e: float) -> list[float]:
    """TRL's formulas, with Python's floats alone."""
    pc, pr, rc, rr = POLICY_C, POLICY_R, REFERENCE_C, REFERENCE_R
    quantiles = {
        "aot": zip(
            sorted(a - b for a, b in zip(pc, pr, strict=True)),
            sorted(a - b for a, b in zip(rc, rr, strict=True)),
            strict=True,
        ),
        "aot_unpaired": zip(
            sorted(a - b for a, b in zip(pc, rc, strict=True)),
            sorted(a - b for a, b in zip(pr, rr, strict=True)),
            strict=True,
        ),
    }
    if loss in quantiles:
        margins = [BETA * (one - other) for one, other in quantiles[loss]]
        return [-(1 - e) * log_s(m) - e * log_s(-m) for m in margins]
    values = []
    for i in range(len(pc)):
        c, r = pc[i] - rc[i], pr[i] - rr[i]
        logits = (pc[i] - pr[i]) - (rc[i] - rr[i])
        m, a, b = BETA * logits, BETA * c, BETA * r
        per_token = c / LENGTHS_C[i] - r / LENGTHS_R[i]
        g = s(m / TAU)
        values.append(
            {
                "sigmoid": -log_s(m) * (1 - e) - log_s(-m) * e,
                "robust": (-log_s(m) * (1 - e) + log_s(-m) * e) / (1 - 2 * e),
                "exo_pair": s(m) * (log_s(m) - math.log(1 - (e or 1e-3)))
                + s(-m) * (log_s(-m) - math.log(e or 1e-3)),
                "hinge": max(0.0, 1 - m),
                "ipo": (per_token - 1 / (2 * BETA)) ** 2,
                "nca_pair": -log_s(a) - 0.5 * log_s(-a) - 0.5 * log_s(-b),
                "bco_pair": -log_s(a - MEAN) - log_s(-(b - MEAN)),
                "sppo_hard": (c - 0.5 / BETA) ** 2 + (r + 0.5 / BETA) ** 2,
                "apo_zero": 1 - s(a) + s(b),
                "apo_down": s(a) + 1 - s(m),
                "discopop": -log_s(m) * (1 - g) + math.exp(-m) * g,
                "sigmoid_norm": -log_s(BETA * per_token),
            }[loss]
        )
    return values


SMOOTHED = ("sigmoid", "robust", "exo_pair", "aot", "aot_unpaired")


@pytest.mark.parametrize("loss", DPO_LOSSES)
def test_every_loss_is_its_formula(loss) -> None:
    assert dpo_loss(*tensors(), **options(loss)).tolist() == pytest.approx(by_hand(loss, 0.0))


@pytest.mark.parametrize("loss", SMOOTHED)
def test_label_smoothing_is_its_formula(loss) -> None:
    got = dpo_loss(*tensors(), **options(loss, label_smoothing=SMOOTHING))
    assert got.tolist() == pytest.approx(by_hand(loss, SMOOTHING))


@pytest.mark.parametrize("loss", DPO_LOSSES)
def test_gradients_are_those_of_the_formula(loss) -> None:
    policy = [one.requires_grad_() for one in tensors()[:2]]
    frozen = tensors()[2:]
    assert torch.autograd.gradcheck(
        lambda c, r: dpo_loss(c, r, *frozen, **options(loss)), tuple(policy)
    )


@pytest.mark.parametrize("loss", DPO_LOSSES)
def test_the_fused_pass_is_what_eager_torch_computes(loss) -> None:
    """Values and gradients by the kernel, and by plain torch with autograd."""
    results = []
    for backend in ("cpu", "reference"):
        policy = [one.requires_grad_() for one in tensors()[:2]]
        smoothing = SMOOTHING if loss in SMOOTHED else None
        with ops.using(backend):
            losses = dpo_loss(*policy, *tensors()[2:], **options(loss, label_smoothing=smoothing))
        gradients = torch.autograd.grad(losses.sum(), policy, allow_unused=True)
        results.append([losses, *gradients])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-15)


# torch.func.jvp loads torch's own decompositions.
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("loss", ["sigmoid", "aot"])
def test_torch_differentiates_it_in_every_way(loss) -> None:
    chosen, *rest = tensors()

    def total(chosen):
        return dpo_loss(chosen, *rest, **options(loss)).sum()

    leaf = chosen.clone().requires_grad_()
    (first,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), leaf)
    assert second.norm() > 0
    torch.testing.assert_close(torch.func.grad(total)(chosen), first.detach())
    torch.testing.assert_close(torch.func.hessian(total)(chosen).sum(0), second)
    _, tangent = torch.func.jvp(total, (chosen,), (torch.ones_like(chosen),))
    torch.testing.assert_close(tangent, first.detach().sum())


@pytest.mark.parametrize("loss", DPO_LOSSES)
def test_float32_is_near_float64(loss) -> None:
    got, want = (dpo_loss(*tensors(dtype), **options(loss)) for dtype in (torch.float32, None))
    assert got.tolist() == pytest.approx(want.double().tolist(), rel=1e-4)


def test_the_sft_term_is_added_per_token_of_the_chosen_answer() -> None:
    without, with_it = (dpo_loss(*tensors(), **options("hinge", sft_weight=w)) for w in (0.0, 0.5))
    wanted = [-0.5 * lp / length for lp, length in zip(POLICY_C, LENGTHS_C, strict=True)]
    assert (with_it - without).tolist() == pytest.approx(wanted)


def test_constants_may_be_arrays_and_keep_their_digits() -> None:
    c, r = tensors()[:2]
    arrays = c.numpy() + 1e-12, r.numpy()
    assert dpo_loss(*arrays, *arrays, **options("sigmoid")).tolist() == [math.log(2)] * 4
    got = dpo_loss(c, r, *arrays, **options("sppo_hard"))
    assert got.dtype == torch.float64


def test_the_vector_of_the_original() -> None:
    """One pair of three tokens each; its own test expects these numbers."""
    per_token = [[-0.1, -0.2, -0.3], [-0.2, -0.4, -0.6], [-0.7, -0.7, -0.6], [-0.3, -0.3, -0.4]]
    sums = [torch.tensor([sum(values)], dtype=torch.float64) for values in per_token]
    assert dpo_loss(*sums, beta=0.1).item() == pytest.approx(0.616, abs=5e-4)
    margin = 0.1 * ((sums[0] - sums[2]) - (sums[1] - sums[3]))
    assert margin.item() == pytest.approx(0.16)


@pytest.mark.parametrize("loss", ["sigmoid", "robust", "aot", "aot_unpaired", "sigmoid_norm"])
def test_a_policy_that_is_its_reference_has_loss_ln_2(loss) -> None:
    c, r = tensors()[:2]
    got = dpo_loss(c, r, c, r, **options(loss))
    assert got.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-15)


@given(margin=st.floats(-1e4, 1e4))
def test_no_margin_overflows(margin) -> None:
    policy = torch.tensor([margin], dtype=torch.float32, requires_grad=True)
    zero = torch.zeros(1)
    loss = dpo_loss(policy, zero, zero, zero, beta=1.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(policy.grad).all()
    assert loss.item() == pytest.approx(max(0.0, -margin), abs=math.log(2) + 1e-3)


def test_answers_are_summed_in_float64_over_their_own_tokens() -> None:
    long = torch.full((100_000,), -1e-3)
    short = torch.tensor([-5.0, -1.0, -2.0], requires_grad=True)
    weights = [torch.ones(100_000), torch.tensor([0.0, 1.0, 1.0])]
    got = answer_logprobs([long, short], weights)
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx([-100.0, -3.0], rel=1e-7)
    got[1].backward()
    assert short.grad.tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": "sigmod"}, "did you mean 'sigmoid'"),
        ({"beta": 0.0}, "beta must be a finite number above 0, got 0.0"),
        ({"beta": math.nan}, "beta must be a finite number above 0, got nan"),
        ({"tau": -1.0}, "tau must be"),
        ({"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5, got 0.5"),
        ({"loss": "exo_pair", "label_smoothing": 0.0}, "label_smoothing must be above 0"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing must be None for 'hinge'"),
        ({"loss": "ipo", "chosen_lengths": None}, "chosen_lengths must be given for 'ipo'"),
        ({"sft_weight": 1.0, "rejected_lengths": None}, "rejected_lengths must be given"),
        ({"sft_weight": -1.0}, "sft_weight must be finite and at least 0, got -1.0"),
        ({"loss": "ipo", "chosen_lengths": torch.ones(3)}, r"chosen_lengths must have shape \[P\]"),
    ],
)
def test_a_wrong_argument_is_named(change, said) -> None:
    with pytest.raises(ValueError, match=said):
        dpo_loss(*tensors(), **options(**{"loss": "sigmoid", **change}))


def test_sums_must_be_of_the_same_pairs() -> None:
    c, r, fc, fr = tensors()
    with pytest.raises(
        ValueError, match=r"policy_rejected must have shape \[P\] = \[4\], got \[3\]"
    ):
        dpo_loss(c, r[:3], fc, fr)


def divergence_by_hand(name: str, d: float) -> float:
    """f'(u) - f'(1), u = exp(d)."""
    u = math.exp(d)
    return {
        "reverse_kl": math.log(u),
        "forward_kl": -1.0 / u + 1.0,
        "js": math.log(2.0 * u / (1.0 + u)),
        "alpha": (1.0 - u**-0.7) / 0.7,
    }[name]


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_a_divergence_takes_the_place_of_the_log_ratio(name) -> None:
    alpha = 0.7 if name == "alpha" else None
    got = dpo_loss(*tensors(), loss="sigmoid", beta=BETA, divergence=name, alpha=alpha)
    want = []
    for pc, pr, rc, rr in zip(POLICY_C, POLICY_R, REFERENCE_C, REFERENCE_R, strict=True):
        chosen, rejected = divergence_by_hand(name, pc - rc), divergence_by_hand(name, pr - rr)
        want.append(-log_s(BETA * (chosen - rejected)))
    assert got.tolist() == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize(
    "loss", ["sigmoid", "hinge", "ipo", "robust", "exo_pair", "discopop", "sigmoid_norm"]
)
@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_at_the_reference_every_divergence_gives_the_same_loss(loss, name) -> None:
    same = [tensors()[0], tensors()[1], tensors()[0], tensors()[1]]
    plain = dpo_loss(*same, **options(loss))
    assert dpo_loss(*same, **options(loss, divergence=name)).tolist() == plain.tolist()


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_a_policy_far_from_its_reference_has_a_finite_loss_and_gradient(name) -> None:
    policy = torch.tensor([-3000.0, -1.0], requires_grad=True)
    rest = [torch.tensor(values) for values in ([-1.0, -3000.0], [-1.0, -1.0], [-1.0, -1.0])]
    loss = dpo_loss(policy, *rest, divergence=name)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(policy.grad).all()


def test_a_mixture_is_the_weighted_sum_of_its_losses() -> None:
    weights = {"sigmoid": 0.8, "ipo": 0.1, "exo_pair": 2.0}
    got = dpo_loss(*tensors(), **options(weights))
    want = sum(w * dpo_loss(*tensors(), **options(name)) for name, w in weights.items())
    assert got.tolist() == pytest.approx(want.tolist(), rel=1e-12)
    assert dpo_loss(*tensors(), **options({"hinge": 1.0})).tolist() == pytest.approx(
        dpo_loss(*tensors(), **options("hinge")).tolist()
    )


def test_the_smoothing_of_a_mixture_is_for_the_losses_that_take_one() -> None:
    got = dpo_loss(*tensors(), **options({"sigmoid": 1.0, "hinge": 1.0}, label_smoothing=0.2))
    want = dpo_loss(*tensors(), **options("sigmoid", label_smoothing=0.2))
    want = want + dpo_loss(*tensors(), **options("hinge"))
    assert got.tolist() == pytest.approx(want.tolist())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": {}}, "loss must name at least one, got none"),
        ({"loss": {"sigmod": 1.0}}, "did you mean 'sigmoid'"),
        ({"loss": {"sigmoid": 0.0}}, "the weight of sigmoid must be a finite number above 0"),
        ({"loss": {"hinge": 1.0}, "label_smoothing": 0.1}, "label_smoothing must be None for 'hin"),
        ({"divergence": "kl"}, "divergence must be one of"),
        ({"loss": "aot", "divergence": "js"}, "divergence must be 'reverse_kl' for 'aot'"),
        ({"loss": {"bco_pair": 1.0}, "divergence": "alpha"}, "'reverse_kl' for 'bco_pair'"),
        ({"loss": "apo_zero", "divergence": "js"}, "'reverse_kl' for 'apo_zero'"),
        ({"alpha": 0.5}, "alpha must be None for 'reverse_kl'"),
        ({"divergence": "alpha", "alpha": 1.0}, r"alpha must be in \(0, 1\), got 1.0"),
    ],
)
def test_a_wrong_mixture_or_divergence_is_refused(given, said) -> None:
    with pytest.raises(ValueError, match=said):
        dpo_loss(*tensors(), **given)
