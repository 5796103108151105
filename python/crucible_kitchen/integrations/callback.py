"""A callback for transformers' Trainer, and those of TRL: kernels in, throughput told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from crucible_kitchen.integrations.patching import patch
from crucible_kitchen.integrations.report import PatchReport

KEY = "tokens_per_second"


class KernelsCallback(TrainerCallback):
    """Patch the trainer's model while it trains, say what was patched, and count tokens.

    Every log gets ``tokens_per_second``: tokens that are no padding, of this process, since the
    last log.

    Args:
        report: of a model that is patched already, and stays so; None patches the trainer's model
            when training starts and undoes it when training ends.
        show: is given the report as text when training starts.

    Attributes:
        report: what the patch did; None before training.
    """

    def __init__(
        self, report: PatchReport | None = None, *, show: Callable[[str], object] = print
    ) -> None:
        self.report = report
        self._show = show
        self._is_ours = report is None
        self._hook: Any = None
        self._tokens: int | Tensor = 0
        self._since = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Patch, unless somebody has; show the report; count from here."""
        model: nn.Module = kwargs["model"]
        if self._is_ours:
            self.report = patch(model)
        self._show(str(self.report))
        self._hook = model.register_forward_pre_hook(self._count, with_kwargs=True)
        self._start_anew()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Add the throughput to the log, and to the history, which has its own copy."""
        if self._hook is None or logs is None or not self._tokens:
            return
        logs[KEY] = round(float(self._tokens) / (time.perf_counter() - self._since), 1)
        if state.log_history:
            state.log_history[-1][KEY] = logs[KEY]
        self._start_anew()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop counting, and undo the patch if it is this callback's."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        if self._is_ours and self.report is not None:
            self.report.undo()

    def _start_anew(self) -> None:
        self._tokens, self._since = 0, time.perf_counter()

    def _count(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not model.training:
            return
        mask, tokens = kwargs.get("attention_mask"), kwargs.get("input_ids")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            # Stays on its device: reading it would wait for every step.
            self._tokens = self._tokens + mask.sum(dtype=torch.int64)
        elif isinstance(tokens, Tensor):
            self._tokens = self._tokens + tokens.numel()
