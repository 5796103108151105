"""Those who take a whole training step, each in a process of its own.

All have the same base model, LoRA weights, datums, learning rate and clipping.
"""

from __future__ import annotations

import functools
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from crucible_kitchen.types import Datum

from .step_batches import IGNORED, padded
from .timing import CLOCKS

LEARNING_RATE, CLIP = 1e-3, 1.0


class Contender(NamedTuple):
    """Who takes steps, in `CONTENDERS` or `EXACT`, and the dtype of its frozen weights."""

    name: str
    dtype: str


class Step(NamedTuple):
    """What a step gave: the mean loss before it, and the most memory its process has held."""

    loss: float
    seconds: float
    peak_bytes: int


class Ours:
    """The local training client's own trainer."""

    def __init__(
        self, folder: str, adapter: str, dtype: str, datums: Sequence[Datum], device: str
    ) -> None:
        from crucible_kitchen.adapters.local.model import CausalModel
        from crucible_kitchen.adapters.local.trainer import Trainer
        from crucible_kitchen.ports import SessionConfig

        model = CausalModel.load(folder, dtype=dtype, device=device)
        config = SessionConfig(model=folder, lora_rank=16)
        self.trainer = Trainer(model, config, tokens_per_pass=8192)
        self.trainer.model.load_adapter(adapter)
        self.use(datums)

    def use(self, datums: Sequence[Datum]) -> None:
        """Take these from now on."""
        from crucible_kitchen.adapters.local import batch

        self.examples = batch.read(datums, vocabulary=self.trainer.model.vocabulary)
        self.trained = sum(datum.num_trained_tokens for datum in datums)

    def forward_backward(self) -> float:
        """The mean loss per trained token; gradients of the mean wait for `step`."""
        from crucible_kitchen.adapters.local import joint

        asked = joint.Asked(self.trainer, self.examples, "cross_entropy", {})
        (result,) = joint.compute([asked], joint.Done(), train=True)
        return result.loss

    def gradients(self) -> dict[str, Tensor]:
        """Of the mean loss, by PEFT's names."""
        from crucible_kitchen.nn import lora_modules

        found = {}
        for path, module in lora_modules(self.trainer.model.model):
            for letter in "ab":
                gradient = getattr(module, f"lora_{letter}").grad
                found[f"{path}.lora_{letter.upper()}"] = gradient / self.trained
        return found

    def forget(self) -> None:
        """Clear the gradients."""
        for parameter in self.trainer.parameters:
            parameter.grad = None

    def step(self) -> None:
        """Clip, AdamW, clear."""
        from crucible_kitchen.types import AdamParams

        params = AdamParams(learning_rate=LEARNING_RATE, grad_clip_norm=CLIP * self.trained)
        self.trainer.optim_step(params)


class Peft:
    """transformers and PEFT: rows padded to the longest, attention by torch, AdamW fused."""

    def __init__(
        self, folder: str, adapter: str, dtype: str, datums: Sequence[Datum], device: str
    ) -> None:
        import peft
        from transformers import AutoModelForCausalLM

        from crucible_kitchen.adapters.local.model import quiet

        with quiet(), warnings.catch_warnings():
            # PEFT still asks transformers by the older of two names.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            base = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), attn_implementation="sdpa"
            )
            lora = peft.PeftModel.from_pretrained(self.base(base), adapter, is_trainable=True)
        self.device = device
        self.model: Any = lora.to(device).train()
        self.model.config.use_cache = False
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0, fused=True)
        self.use(datums)

    def base(self, model: Any) -> Any:
        """The model that LoRA is added to."""
        return model

    def use(self, datums: Sequence[Datum]) -> None:
        """Take these from now on."""
        self.inputs = {name: t.to(self.device) for name, t in padded(datums).items()}

    def forward_backward(self) -> float:
        """The mean loss per trained token, by the model's own loss."""
        loss = self.model(**self.inputs, use_cache=False).loss
        loss.backward()
        return float(loss.detach())

    def gradients(self) -> dict[str, Tensor]:
        """By PEFT's names."""
        return {
            name.removeprefix("base_model.model.").removesuffix(".default.weight"): p.grad
            for name, p in self.model.named_parameters()
            if p.requires_grad
        }

    def forget(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Clip, AdamW, clear."""
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


class Liger(Peft):
    """The same with Liger-Kernel's norms, rotations, gated MLPs and loss."""

    def base(self, model: Any) -> Any:
        """The model with its parts replaced in place."""
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(model=model)
        return model


class Trl(Peft):
    """TRL's `SFTTrainer` on that model: its own loss without logits, and the metrics it counts."""

    def __init__(
        self, folder: str, adapter: str, dtype: str, datums: Sequence[Datum], device: str
    ) -> None:
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        super().__init__(folder, adapter, dtype, datums, device)
        with tempfile.TemporaryDirectory() as out, redirect_stdout(sys.stderr):
            self.trainer = SFTTrainer(
                self.model,
                SFTConfig(out, use_cpu=device == "cpu", bf16=False, report_to=[]),
                # It wants rows to be made; what it is given are batches.
                train_dataset=Dataset.from_list([{"input_ids": [0, 0]}]),
                processing_class=AutoTokenizer.from_pretrained(folder),
            )

    def forward_backward(self) -> float:
        """The mean loss per trained token, by the trainer's `compute_loss`."""
        loss: Tensor = self.trainer.compute_loss(self.model, dict(self.inputs))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())


class Exact(Peft):
    """The same in float64, from the same weights: what the others' gradients are held to.

    transformers computes norms and the loss in float32 whatever the model's dtype; here neither.
    """

    def __init__(
        self, folder: str, adapter: str, dtype: str, datums: Sequence[Datum], device: str
    ) -> None:
        super().__init__(folder, adapter, dtype, datums, device)
        self.model.double()
        for module in self.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = functools.partial(_exact_norm, module)

    def forward_backward(self) -> float:
        """The mean loss per trained token, and its gradients."""
        inputs = {name: value for name, value in self.inputs.items() if name != "labels"}
        logits = self.model(**inputs, use_cache=False).logits
        labels = self.inputs["labels"][:, 1:].flatten()
        loss: Any = functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), labels, ignore_index=IGNORED
        )
        loss.backward()
        return float(loss.detach())


def _exact_norm(module: Any, x: Tensor) -> Tensor:
    y: Tensor = (
        module.weight * x * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()
    )
    return y


OURS: Final = "ours"
CONTENDERS: Final[Mapping[str, Callable[..., Any]]] = {
    OURS: Ours,
    "transformers + PEFT": Peft,
    "TRL": Trl,
    "PEFT + Liger": Liger,
}
EXACT: Final = "float64"


def serve(
    pipe: Connection,
    one: Contender,
    folder: str,
    adapter: str,
    datums: list[Datum],
    probes: list[list[Datum]],
    threads: int,
    clock: str,
    device: str,
) -> None:
    """Answer `gradients` (of each probe) and `step` until `end`: the process of a contender."""
    torch.set_num_threads(threads)
    now = CLOCKS[clock]
    contender = {**CONTENDERS, EXACT: Exact}[one.name](folder, adapter, one.dtype, datums, device)
    wait = torch.cuda.synchronize if device == "cuda" else _nothing
    while (asked := pipe.recv()) != "end":
        if asked == "gradients":
            pipe.send([_gradients(contender, probe) for probe in probes])
            contender.use(datums)
            continue
        wait()
        started = now()
        loss = contender.forward_backward()
        contender.step()
        wait()
        pipe.send(Step(loss, now() - started, peak_bytes(device)))


def _gradients(contender: Any, probe: list[Datum]) -> dict[str, Any]:
    contender.use(probe)
    contender.forward_backward()
    found = {name: grad.double().cpu().numpy() for name, grad in contender.gradients().items()}
    contender.forget()
    return found


def _nothing() -> None:
    """On the CPU a step has ended when it returns."""


def peak_bytes(device: str) -> int:
    """The most memory this process has held: of the device, or resident."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
