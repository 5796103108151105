"""The contract of training clients that give scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from crucible_kitchen.errors import DataError, PortError
from crucible_kitchen.ports import Session, TrainingClient
from crucible_kitchen.types import Datum

_GOOD = Datum([5, 6, 7], {})
_BAD = Datum([9, 8, 7, 6, 5], {})


class ScalarHeadContract:
    """Beside `TrainingClientContract`, for adapters whose sessions take ``head="scalar"``.

    `config` starts such a session; tokens 0 to 49 must be in its model's vocabulary.
    """

    config: ClassVar[dict[str, Any]] = {"model": "noop", "head": "scalar"}
    tolerance: ClassVar[float] = 1e-5
    learning_rate: ClassVar[float] = 1e-2

    @pytest.fixture
    def session(self, adapter: TrainingClient) -> Iterator[Session]:
        """An open session with a scalar head."""
        session = adapter.start_session(self.config)
        yield session
        adapter.close_session(session)

    def close_to(self, value: Any) -> Any:
        """`value`, to compare with within the tolerance."""
        return pytest.approx(value, rel=self.tolerance, abs=self.tolerance)

    def test_a_datum_has_one_score_in_any_company(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        both = adapter.score(session, [_GOOD, _BAD]).result()
        alone = [adapter.score(session, [datum]).result() for datum in (_GOOD, _BAD)]
        assert [len(scores) for scores in (both, *alone)] == [2, 1, 1]
        assert both == self.close_to([scores[0] for scores in alone])
        assert both[0] != both[1]

    def test_a_custom_loss_sees_the_scores(self, adapter: TrainingClient, session: Session) -> None:
        want = adapter.score(session, [_GOOD, _BAD]).result()
        seen: list[float] = []

        def difference(datums: Sequence[Datum], scores: Any) -> Any:
            assert [tuple(score.shape) for score in scores] == [(1,), (1,)]
            seen.extend(float(score.detach()) for score in scores)
            return (scores[1] - scores[0]).sum(), {"pairs": 1.0}

        result = adapter.forward_backward_custom(session, [_GOOD, _BAD], difference).result()
        assert seen == self.close_to(want)
        assert result.metrics["loss:sum"] == self.close_to(want[1] - want[0])
        assert result.metrics["pairs"] == 1.0
        outputs = [output["score"].tolist() for output in result.loss_fn_outputs]
        assert outputs == [self.close_to([score]) for score in want]

    def test_ten_steps_raise_the_better_score(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        first = self._margin(adapter, session)
        for _ in range(10):
            self._learn(adapter, session)
        assert self._margin(adapter, session) > first + 0.1

    def test_scoring_leaves_no_gradients(self, adapter: TrainingClient, session: Session) -> None:
        adapter.score(session, [_GOOD]).result()
        assert adapter.optim_step(session, self.learning_rate).result().grad_norm == 0.0

    def test_a_checkpoint_brings_the_scores_back(
        self, adapter: TrainingClient, session: Session, tmp_path: Path
    ) -> None:
        self._learn(adapter, session)
        saved = adapter.save_checkpoint(session, str(tmp_path / "checkpoint")).result()
        at_save = adapter.score(session, [_GOOD, _BAD]).result()
        self._learn(adapter, session)
        went_on = adapter.score(session, [_GOOD, _BAD]).result()
        assert went_on != self.close_to(at_save)
        adapter.load_checkpoint(session, saved)
        assert adapter.score(session, [_GOOD, _BAD]).result() == self.close_to(at_save)
        self._learn(adapter, session)
        assert adapter.score(session, [_GOOD, _BAD]).result() == self.close_to(went_on)
        resumed = adapter.start_session({**self.config, "checkpoint_path": saved})
        assert adapter.score(resumed, [_GOOD, _BAD]).result() == self.close_to(at_save)
        adapter.close_session(resumed)

    def test_each_head_takes_its_own_questions(
        self, adapter: TrainingClient, session: Session
    ) -> None:
        for ask in (adapter.forward, adapter.forward_backward):
            with pytest.raises(PortError, match="head='vocabulary', got 'scalar'"):
                ask(session, [_GOOD])
        other = adapter.start_session({**self.config, "head": "vocabulary"})
        with pytest.raises(PortError, match="head='scalar', got 'vocabulary'"):
            adapter.score(other, [_GOOD])
        adapter.close_session(other)

    def test_refuses_what_has_no_tokens(self, adapter: TrainingClient, session: Session) -> None:
        with pytest.raises(DataError, match="at least one datum"):
            adapter.score(session, [])
        with pytest.raises(DataError, match=r"datums\[1\].*at least one token"):
            adapter.score(session, [_GOOD, Datum([], {})])

    def test_a_closed_session_scores_nothing(self, adapter: TrainingClient) -> None:
        session = adapter.start_session(self.config)
        adapter.close_session(session)
        with pytest.raises(PortError, match="closed"):
            adapter.score(session, [_GOOD])

    def _margin(self, adapter: TrainingClient, session: Session) -> float:
        good, bad = adapter.score(session, [_GOOD, _BAD]).result()
        return good - bad

    def _learn(self, adapter: TrainingClient, session: Session) -> None:
        def difference(datums: Sequence[Datum], scores: Any) -> Any:
            return (scores[1] - scores[0]).sum(), {}

        adapter.forward_backward_custom(session, [_GOOD, _BAD], difference)
        adapter.optim_step(session, self.learning_rate).result()
