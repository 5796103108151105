"""`AdamW`: torch's interface and state, one fused call for the norm and one for the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim.optimizer import ParamsT

from crucible_kitchen import ops
from crucible_kitchen.optim.global_norm import Unread, global_norm, locals_of
from crucible_kitchen.optim.moments import (
    MOMENTS,
    STATE_BITS,
    bits_of,
    fresh,
    restored,
    scales_of,
)


class AdamW(torch.optim.Optimizer):
    """Decoupled AdamW with the clipping of the gradients fused into the step.

    `state_dict` is that of `torch.optim.AdamW`, and each loads the other's. A step whose gradients
    are not all finite changes nothing; it sets `last_step_skipped` and does not raise, so that the
    caller decides whether to go on.

    `step` waits for no device: the norm stays where the gradients are, and the kernel that updates
    reads it there. The host learns it when `last_grad_norm` or `last_step_skipped` is read, or at
    the next step.

    Args:
        params: parameters or parameter groups, float32 or bfloat16, whole or sharded by FSDP2.
        lr: learning rate; schedulers of torch set it.
        betas: decay of the running means of the gradient and of its square, in [0, 1).
        eps: added to the root of the second mean.
        weight_decay: share of a parameter that is subtracted per unit of lr.
        max_grad_norm: gradients of a greater global norm are scaled down to it; None or 0: never.
            It holds for all groups together and may be changed between steps.
        stochastic_rounding: round bfloat16 parameters at random, so that small updates add up.
        seed: of that rounding, and of the running means' in 16 bits.
        master_weights: keep a float32 copy of every bfloat16 or float16 parameter, step on that,
            and round it into the parameter to nearest.
        state_bits: of an element of both running means. 32: float32. 16: bfloat16, as
            `torch.optim.AdamW` has them with parameters in bfloat16, but the mean of squares is
            rounded stochastically: to nearest it would stand still where betas[1] is 0.999. 8:
            codes (`kernels.adamw_step.eight_bit`) in tensors of 4096 elements and more.

    Raises:
        ValueError: a constant is out of its range.
        KernelError: in `step`, no kernel takes a parameter's device or dtype.

    Source: Loshchilov & Hutter 2019, algorithm 2, https://arxiv.org/abs/1711.05101
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        max_grad_norm: float | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
        master_weights: bool = False,
        state_bits: int = 32,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        if max_grad_norm is not None and not max_grad_norm >= 0:
            raise ValueError(f"AdamW: max_grad_norm must be 0 or more, got {max_grad_norm}")
        if state_bits not in STATE_BITS:
            raise ValueError(f"AdamW: state_bits must be 8, 16 or 32, got {state_bits}")
        if master_weights and stochastic_rounding:
            raise ValueError(
                "AdamW: stochastic_rounding must be False with master_weights, got True: the "
                "master keeps what rounding would lose"
            )
        self.master_weights, self.state_bits = master_weights, state_bits
        self.max_grad_norm = max_grad_norm
        self.stochastic_rounding = stochastic_rounding
        self.seed = seed
        self._last_norm: float | None = None
        # Of the last step, until somebody reads it: its norm, and the parameters it counted.
        self._unread: tuple[Unread, list[Tensor]] | None = None
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does, with its constants checked."""
        merged = self.defaults | param_group
        for name in ("lr", "eps", "weight_decay"):
            if not float(merged[name]) >= 0:
                raise ValueError(f"AdamW: {name} must be 0 or more, got {merged[name]}")
        for i, beta in enumerate(merged["betas"]):
            if not 0 <= float(beta) < 1:
                raise ValueError(f"AdamW: betas[{i}] must be in [0, 1), got {beta}")
        super().add_param_group(param_group)

    @property
    def last_grad_norm(self) -> float | None:
        """Global norm of the gradients of the last step, before clipping.

        NaN or infinite if that step was skipped, None before the first. The first to read it waits
        for that step's norm.
        """
        self._read_norm()
        return self._last_norm

    @property
    def last_step_skipped(self) -> bool:
        """Whether the last step changed nothing, because a gradient was not finite."""
        norm = self.last_grad_norm
        return norm is not None and not math.isfinite(norm)

    def _read_norm(self) -> None:
        """Learn the last step's norm; a step that was skipped is no longer counted."""
        if self._unread is None:
            return
        unread, stepped = self._unread
        self._last_norm, self._unread = unread.read(), None
        if not math.isfinite(self._last_norm):
            for param in stepped:
                self.state[param]["step"] -= 1

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Clip and apply the gradients; parameters without one are left alone.

        Args:
            closure: computes the loss and the gradients anew.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._read_norm()  # the last step's, long there: this one's number depends on it
        batches = list(self._batches())
        norm = global_norm(grads for _, _, _, grads in batches)
        for index, group, params, grads in batches:
            self._update(index, group, params, grads, norm)
        self._unread = Unread(norm), [param for _, _, params, _ in batches for param in params]
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The state, as `torch.optim.AdamW` would give it (steps are float32 tensors there)."""
        self._read_norm()
        saved = super().state_dict()
        saved["state"] = {
            key: {**state, "step": torch.tensor(float(state["step"]))}
            for key, state in saved["state"].items()
        }
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state of this class or of `torch.optim.AdamW`.

        Raises:
            ValueError: the groups differ, or the state needs what this class does not compute.
        """
        for group in state_dict["param_groups"]:
            if group.get("amsgrad") or group.get("maximize"):
                raise ValueError("AdamW: state must be without amsgrad and maximize, got one")
            if group.get("decoupled_weight_decay") is False and group["weight_decay"]:
                raise ValueError("AdamW: state must have decoupled weight decay, got that of Adam")
        self._read_norm()  # it is of the state that goes
        super().load_state_dict(state_dict)
        keys = (key for group in state_dict["param_groups"] for key in group["params"])
        params = (param for group in self.param_groups for param in group["params"])
        for key, param in zip(keys, params, strict=True):
            if saved := state_dict["state"].get(key):
                # torch has cast everything to the parameter's dtype; that would lose 16 bits.
                self.state[param] = self._restored(param, saved)

    def _restored(self, param: Tensor, saved: dict[str, Any]) -> dict[str, Any]:
        """A state as this optimizer keeps it, of one that may have kept it in other bits."""
        state: dict[str, Any] = {"step": int(saved["step"])}
        state |= restored(param, saved, self._bits_of(param))
        if "master" in saved and not self.master_weights:
            raise ValueError(
                "AdamW: master_weights must be True for a state with masters, got False"
            )
        if self._has_master(param):
            state["master"] = saved.get("master", param.detach()).to(
                param.device, torch.float32, copy=True
            )
        return state

    def _has_master(self, param: Tensor) -> bool:
        return self.master_weights and param.dtype in (torch.bfloat16, torch.float16)

    def _bits_of(self, param: Tensor) -> int:
        return bits_of(param, self.state_bits)

    def _batches(self) -> Iterator[tuple[int, dict[str, Any], list[Tensor], list[Tensor]]]:
        """Index, group, parameters, gradients: of each group and device that has gradients."""
        for index, group in enumerate(self.param_groups):
            by_device: dict[torch.device, tuple[list[Tensor], list[Tensor]]] = {}
            for param in group["params"]:
                if (grad := param.grad) is not None:
                    if grad.layout != torch.strided:
                        raise ValueError(f"AdamW: gradients must be dense, got {grad.layout}")
                    params, grads = by_device.setdefault(param.device, ([], []))
                    params.append(param)
                    grads.append(grad)
            for params, grads in by_device.values():
                yield index, group, params, grads

    def _update(
        self,
        index: int,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        norm: Tensor,
    ) -> None:
        for param in params:
            state = self.state[param] or self._fresh_state(param)
            state["step"] += 1
        for bits in STATE_BITS:
            part = [i for i, param in enumerate(params) if self._bits_of(param) == bits]
            if part:
                # Another rounding in each step, group and part, and the same one after a resume.
                seed = self.seed << 40 ^ index << 32 ^ bits << 48
                mine = [params[i] for i in part]
                self._update_part(group, mine, [grads[i] for i in part], norm, seed)

    def _update_part(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        norm: Tensor,
        seed: int,
    ) -> None:
        """One call for parameters of one device whose running means have the same bits."""
        states = [self.state[param] for param in params]
        steps = [state["step"] for state in states]
        masters = [s.get("master", p) for s, p in zip(states, params, strict=True)]
        moments = {name: locals_of([state[name] for state in states]) for name in MOMENTS}
        scales = [[s[scales_of(name)] for s in states if scales_of(name) in s] for name in MOMENTS]
        ops.adamw_step(
            locals_of(masters),
            locals_of(grads),
            *moments.values(),
            step=steps,
            lr=float(group["lr"]),
            betas=(float(group["betas"][0]), float(group["betas"][1])),
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            norm=norm.to(params[0].device, non_blocking=True),
            max_norm=self.max_grad_norm or 0.0,
            exp_avg_scales=scales[0],
            exp_avg_sq_scales=scales[1],
            stochastic_rounding=self.stochastic_rounding,
            seed=(seed ^ max(steps)) & (2**63 - 1),
        )
        for state, param in zip(states, params, strict=True):
            if "master" in state:
                param.copy_(state["master"])

    def _fresh_state(self, param: Tensor) -> dict[str, Any]:
        state: dict[str, Any] = self.state[param]
        state["step"] = 0  # a number: hundreds of one-element tensors would cost more than the step
        bits = self._bits_of(param)
        if isinstance(param, DTensor) and bits == 8:
            raise ValueError(
                "AdamW: state_bits must be 16 or 32 for parameters that FSDP shards, got 8"
            )
        if self._has_master(param):
            state["master"] = param.detach().to(torch.float32, copy=True)
        state |= fresh(param, bits)
        return state
