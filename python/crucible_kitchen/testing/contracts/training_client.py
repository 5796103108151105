"""The contract of `TrainingClient`."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.ports import LOSSES, Port, Session, Tokenizer, TrainingClient
from crucible_kitchen.types import AdamParams, Datum

from .base import PortContract

_SHORT = Datum([5, 6, 7], {"labels": [-100, 6, 7]})
_LONG = Datum([9, 8, 7, 6, 5], {"target_tokens": [8, 7, 6, 5, 4], "weights": [0, 1, 0.5, 2, 1]})


class TrainingClientContract(PortContract):
    """`config` starts a session; its model's vocabulary holds at least tokens 0 to 49.

    `tolerance` is how far, relatively, two ways to compute one number may differ; `learning_rate`
    is one at which ten steps on one batch bring the loss down.
    """

    port = TrainingClient
    config: ClassVar[dict[str, Any]] = {"model": "noop"}
    tolerance: ClassVar[float] = 1e-5
    learning_rate: ClassVar[float] = 1e-2

    @pytest.fixture
    def session(self, adapter: TrainingClient) -> Iterator[Session]:
        """An open session."""
        session = adapter.start_session(self.config)
        yield session
        adapter.close_session(session)

    def close_to(self, value: Any) -> Any:
        """`value`, to compare with within the tolerance."""
        return pytest.approx(value, rel=self.tolerance, abs=self.tolerance)

    def test_sessions_have_their_config_and_an_id(self, adapter: TrainingClient) -> None:
        one, two = (adapter.start_session(self.config) for _ in range(2))
        assert one.id != two.id
        assert one.config.model == self.config["model"]
        adapter.close_session(one)
        adapter.close_session(two)

    def test_loss_is_the_weighted_mean_in_nats(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        result = adapter.forward_backward(session, [_SHORT, _LONG]).result()
        logprobs = [output["logprobs"] for output in result.loss_fn_outputs]
        assert [(lp.shape, lp.dtype) for lp in logprobs] == [((3,), "float32"), ((5,), "float32")]
        assert all((lp.numpy() <= 0).all() for lp in logprobs)
        weights = [datum.loss_fn_inputs["weights"].numpy() for datum in (_SHORT, _LONG)]
        total = -sum(float(w @ lp.numpy()) for w, lp in zip(weights, logprobs, strict=True))
        assert result.metrics["loss:sum"] == self.close_to(total)
        assert result.loss == self.close_to(total / sum(w.sum() for w in weights))

    def test_a_batch_is_the_sum_of_its_parts(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        whole, *parts = (
            adapter.forward(session, datums).result()
            for datums in ([_SHORT, _LONG], [_SHORT], [_LONG])
        )
        assert whole.metrics["loss:sum"] == self.close_to(
            sum(part.metrics["loss:sum"] for part in parts)
        )
        for got, part in zip(whole.loss_fn_outputs, parts, strict=True):
            want = part.loss_fn_outputs[0]["logprobs"].tolist()
            assert got["logprobs"].tolist() == self.close_to(want)

    @pytest.mark.parametrize("loss_fn", [name for name in LOSSES if name != "cross_entropy"])
    def test_policy_losses_follow_their_formulas(
        self, adapter: TrainingClient, session: Session, loss_fn: str
    ) -> None:
        lp = _logprobs(adapter.forward(session, [_LONG]).result())
        # Ratios on both sides of every clipping bound, advantages of both signs.
        q = lp - np.log([0.5, 0.9, 1.0, 1.5, 3.0])
        advantages = np.array([1.0, -1.0, 0.5, 2.0, -0.5])
        inputs = {"target_tokens": [8, 7, 6, 5, 4], "logprobs": q, "advantages": advantages}
        datum = Datum([9, 8, 7, 6, 5], inputs)
        settings = dict(LOSSES[loss_fn].config)
        result = adapter.forward_backward(session, [datum], loss_fn, settings).result()
        want = float(_policy_loss(loss_fn, lp, q, advantages).sum())
        assert result.metrics["loss:sum"] == pytest.approx(want, rel=max(self.tolerance, 1e-4))

    def test_ten_steps_bring_the_loss_down(self, adapter: TrainingClient, session: Session) -> None:
        first = adapter.forward(session, [_LONG]).result().loss
        for step in range(1, 11):
            adapter.forward_backward(session, [_LONG])
            took = adapter.optim_step(session, self.learning_rate).result()
            assert (took.step, took.learning_rate) == (step, self.learning_rate)
            assert math.isfinite(took.grad_norm)
            assert took.grad_norm > 0
        assert adapter.forward(session, [_LONG]).result().loss < first

    def test_forward_leaves_no_gradients(self, adapter: TrainingClient, session: Session) -> None:
        before = adapter.forward(session, [_LONG]).result().loss
        adapter.forward(session, [_LONG]).result()
        assert adapter.optim_step(session, self.learning_rate).result().grad_norm == 0.0
        assert adapter.forward(session, [_LONG]).result().loss == self.close_to(before)

    def test_optim_step_clears_gradients(self, adapter: TrainingClient, session: Session) -> None:
        adapter.forward_backward(session, [_LONG])
        params = AdamParams(learning_rate=0.0)
        assert adapter.optim_step(session, params).result().grad_norm > 0
        assert adapter.optim_step(session, {"learning_rate": 0.0}).result().grad_norm == 0.0

    def test_a_custom_loss_equals_the_built_in_one(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        pytest.importorskip("torch")

        def cross_entropy(datums: Any, logprobs: Any) -> Any:
            weights = [datum.loss_fn_inputs["weights"].torch() for datum in datums]
            terms = [-(w.to(lp) * lp).sum() for w, lp in zip(weights, logprobs, strict=True)]
            return sum(terms), {"datums:sum": float(len(datums))}

        want = adapter.forward(session, [_SHORT, _LONG]).result()
        got = adapter.forward_backward_custom(session, [_SHORT, _LONG], cross_entropy).result()
        assert got.metrics["loss:sum"] == self.close_to(want.metrics["loss:sum"])
        assert got.metrics["datums:sum"] == 2.0
        custom = adapter.optim_step(session, 0.0).result().grad_norm
        assert custom > 0

    def test_futures_complete_in_order(self, adapter: TrainingClient, session: Session) -> None:
        order: list[int] = []
        futures = []
        for index in range(5):
            future = adapter.forward_backward(session, [_SHORT])
            future.add_done_callback(lambda _, index=index: order.append(index))  # type: ignore[misc]
            futures.append(future)
        for future in reversed(futures):
            future.result(timeout=60)
        adapter.optim_step(session, 0.0).result(timeout=60)
        assert order == list(range(5))
        assert all(future.done() for future in futures)

    def test_futures_can_be_awaited(self, adapter: TrainingClient, session: Session) -> None:
        async def train() -> tuple[float, int]:
            forward = adapter.forward_backward(session, [_SHORT])
            step = adapter.optim_step(session, self.learning_rate)
            return (await forward).loss, (await step).step

        loss, step = asyncio.run(train())
        assert math.isfinite(loss)
        assert step == 1

    def test_a_checkpoint_brings_everything_back(
        self, adapter: TrainingClient, session: Session, tmp_path: Path
    ) -> None:
        self._train(adapter, session)
        saved = adapter.save_checkpoint(session, str(tmp_path / "checkpoint")).result()
        at_save = adapter.forward(session, [_LONG]).result().loss
        went_on = self._train(adapter, session)
        adapter.load_checkpoint(session, saved)
        assert adapter.forward(session, [_LONG]).result().loss == self.close_to(at_save)
        # The optimizer's moments came back too, or the next step would differ.
        assert self._train(adapter, session) == self.close_to(went_on)
        resumed = adapter.start_session({**self.config, "checkpoint_path": saved})
        assert adapter.forward(resumed, [_LONG]).result().loss == self.close_to(at_save)
        adapter.close_session(resumed)

    def _train(self, adapter: TrainingClient, session: Session) -> tuple[int, float]:
        adapter.forward_backward(session, [_LONG])
        step = adapter.optim_step(session, self.learning_rate).result().step
        return step, adapter.forward(session, [_LONG]).result().loss

    def test_a_session_is_saved_and_taken_up_again(
        self, adapter: TrainingClient, session: Session, tmp_path: Path
    ) -> None:
        if type(adapter).owns is Port.owns:
            pytest.skip("this adapter does not save its sessions for a resume")
        assert adapter.owns(session)
        assert not adapter.owns(object())
        adapter.forward_backward(session, [_SHORT, _LONG]).result()
        assert adapter.has_gradients(session)
        assert adapter.save_value(session, tmp_path / "early") is None
        adapter.optim_step(session, AdamParams(learning_rate=self.learning_rate)).result()
        saved = adapter.save_value(session, tmp_path / "saved")
        assert saved is not None
        json.dumps(saved)
        again = adapter.load_value(saved, tmp_path / "saved")
        assert again.config == session.config
        for one in (session, again):
            adapter.forward_backward(one, [_LONG])
        steps = [adapter.optim_step(one, self.learning_rate).result() for one in (session, again)]
        assert steps[0] == steps[1]
        losses = [adapter.forward(one, [_SHORT]).result().loss for one in (session, again)]
        assert losses[0] == losses[1]
        adapter.close_session(again)
        assert not adapter.owns(again)

    def test_weights_for_a_sampler_have_an_address(
        self, adapter: TrainingClient, session: Session, tmp_path: Path
    ) -> None:
        name = str(tmp_path / "sampler")
        assert adapter.save_weights_for_sampler(session, name).result()

    def test_has_a_tokenizer(self, adapter: TrainingClient, session: Session) -> None:
        tokenizer = adapter.get_tokenizer(session)
        assert isinstance(tokenizer, Tokenizer)
        assert tokenizer.encode("some text")

    def test_refuses_malformed_arguments_at_the_call(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        with pytest.raises(ConfigError, match="did you mean 'lora_rank'"):
            adapter.start_session({**self.config, "lora_rnk": 4})
        with pytest.raises(ConfigError, match="cross_entropy, importance_sampling"):
            adapter.forward_backward(session, [_SHORT], "crossentropy")
        with pytest.raises(ConfigError, match="clip_low_threshold"):
            adapter.forward_backward(session, [_SHORT], "ppo", {"clip_low": 0.8})
        with pytest.raises(DataError, match=r"datums\[1\].*advantages"):
            adapter.forward_backward(session, [_policy_datum(), _SHORT], "ppo")
        with pytest.raises(DataError, match="at least one"):
            adapter.forward_backward(session, [])
        with pytest.raises(ValueError, match="learning_rate"):
            adapter.optim_step(session, -1.0)

    def test_a_missing_checkpoint_is_named(
        self, adapter: TrainingClient, session: Session, tmp_path: Path
    ) -> None:
        with pytest.raises(PortError, match="not-there"):
            adapter.load_checkpoint(session, str(tmp_path / "not-there"))

    def test_a_closed_session_takes_no_work(self, adapter: TrainingClient) -> None:
        session = adapter.start_session(self.config)
        pending = adapter.forward_backward(session, [_SHORT])
        adapter.close_session(session)
        adapter.close_session(session)
        assert pending.done()
        assert math.isfinite(pending.result().loss)
        with pytest.raises(PortError, match="closed"):
            adapter.forward_backward(session, [_SHORT])
        with pytest.raises(PortError, match="closed"):
            adapter.optim_step(session, 0.1)


def _policy_datum() -> Datum:
    inputs = {"target_tokens": [6, 7], "logprobs": [-1.0, -1.0], "advantages": [1.0, 1.0]}
    return Datum([5, 6], inputs)


def _logprobs(result: Any) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = result.loss_fn_outputs[0]["logprobs"].numpy().astype(float)
    return values


def _policy_loss(
    loss_fn: str,
    lp: npt.NDArray[np.float64],
    q: npt.NDArray[np.float64],
    advantages: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """The formulas of the interface, with their defaults, written out."""
    r = np.exp(lp - q)
    clipped = np.minimum(np.maximum(r, 0.8), 1.2)
    formulas = {
        "importance_sampling": -r * advantages,
        "ppo": -np.minimum(r * advantages, clipped * advantages),
        "cispo": -clipped * lp * advantages,
        "dro": -(lp * advantages - 0.05 / 2 * (lp - q) ** 2),
    }
    return np.asarray(formulas[loss_fn])
