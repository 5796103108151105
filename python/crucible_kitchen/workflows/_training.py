"""The loop that all recipes share: epochs of steps of micro-batches, and what stands around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

from crucible_kitchen.graph import Node, StageNode, Workflow, loop, when, workflow
from crucible_kitchen.stages import (
    check_stop,
    choose_probes,
    close_session,
    next_window,
    order_batches,
    register_model,
    restore_best,
    save_adapter,
    save_checkpoint,
    track_best,
)

SHOWN: Final = 2
"""Most held-out rows that a calibration shows."""


def epochs(
    total_steps: int, steps_per_epoch: int, window_rows: int | None = None
) -> range | count[int]:
    """As many passes over the rows as the steps need; nobody knows how many windows they need."""
    if window_rows is not None:
        return count()
    return range(math.ceil(total_steps / steps_per_epoch))


def should_evaluate(step: int, total_steps: int, eval_every: int) -> bool:
    """At every multiple of `eval_every` but the last step, which is evaluated anyway."""
    return eval_every > 0 and step % eval_every == 0 and step < total_steps


def should_save(step: int, save_every: int) -> bool:
    """At every multiple of `save_every`."""
    return save_every > 0 and step % save_every == 0


def goes_on(step: int, total_steps: int, stop_reason: str) -> bool:
    """Until the last step, or until there is a reason to stop."""
    return step < total_steps and not stop_reason


def reads_on(step: int, total_steps: int, stop_reason: str, window_rows: int | None) -> bool:
    """Whether the rows come in windows, and another one is needed."""
    return window_rows is not None and goes_on(step, total_steps, stop_reason)


def not_evaluated(step: int, evaluated_step: int) -> bool:
    """Whether steps were taken since the last evaluation, which early stopping may have ended."""
    return evaluated_step < step


def was_better(save_best: bool, step: int, best_step: int) -> bool:
    """Whether an earlier model is kept that did better than the last."""
    return save_best and best_step < step


@dataclass(frozen=True)
class Training:
    """What one recipe does in the places where recipes differ.

    Args:
        name: of the workflow.
        start: load the rows and the model.
        prepare: rows that are trained as datums, also those of every further window.
        held_out: what is evaluated.
        rows: what rows become, ``datums`` or ``pairs``.
        step: one optimizer step.
        evaluate: the held-out loss.
        show: some held-out rows before and after; writes one key.
        keep: put these side by side.
        ask: what must be known of the datums before the first of them is trained.
        assume: what a calibration has in place of that.
    """

    name: str
    start: Sequence[Node]
    prepare: Sequence[Node]
    held_out: Sequence[Node]
    rows: Literal["datums", "pairs"]
    step: Sequence[Node]
    evaluate: StageNode
    show: StageNode
    keep: StageNode
    ask: Sequence[Node] = ()
    assume: Sequence[Node] = ()

    def workflow(self) -> Workflow:
        """The whole training."""
        shown, name = self.show.writes[0].key, self.show.name
        step = (
            *self.step,
            when(should_evaluate)[self.evaluate, track_best],
            when(should_save)[save_checkpoint],
            check_stop,
        )
        window = next_window, *self.prepare, *self.ask
        whole = (
            *self.start,
            *self.prepare,
            *self.held_out,
            *self.ask,
            self.evaluate.with_(name="evaluate_before"),
            track_best.with_(name="first_best"),
            self.show.bind(writes=f"{shown}_before").with_(name=f"{name}_before"),
            loop("epochs", over=epochs, while_=goes_on)[
                self._order.bind(epoch="epochs.item"),
                loop("batches", over="epoch_batches", while_=goes_on)[step],
                when(reads_on)[window],
            ],
            when(not_evaluated)[
                self.evaluate.with_(name="evaluate_after"),
                track_best.with_(name="last_best"),
            ],
            when(was_better)[restore_best],
            save_adapter,
            register_model,
            self.show.bind(writes=f"{shown}_after").with_(name=f"{name}_after"),
            self.keep,
        )
        return workflow(self.name)[whole].finally_[close_session]

    def calibration(self) -> Workflow:
        """The parts of the training, each run as often as it takes to know how long it takes."""
        held_out = f"eval_{self.rows}"
        probed = {held_out: "probe_datums"}
        if self.rows == "pairs":
            probed["eval_judgements"] = "probe_judgements"
        parts = (
            *self.start,
            *self.prepare,
            *self.held_out,
            *self.assume,
            self._order.bind(epoch=0),
            choose_probes.bind(train_datums=f"train_{self.rows}", eval_datums=held_out),
            loop("batches", over="probe_batches")[tuple(self.step)],
            self.evaluate.bind(**probed).with_(name="evaluate"),
            self.show.bind(samples=SHOWN, writes="shown").with_(name="show"),
            save_checkpoint,
            save_adapter,
        )
        return workflow("calibration")[parts].finally_[close_session]

    @property
    def _order(self) -> StageNode:
        return order_batches.bind(train_datums=f"train_{self.rows}")
