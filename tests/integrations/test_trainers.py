"""Trainers of transformers and TRL reach the same losses patched as they do unpatched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
)

import crucible_kitchen as ck
from crucible_kitchen.integrations import KernelsCallback
from crucible_kitchen.testing.tiny_model import tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore")  # of accelerate, datasets, peft and trl

ARGUMENTS = {
    "max_steps": 3,
    "per_device_train_batch_size": 2,
    "learning_rate": 1e-2,
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


def losses(trainer: Any) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def lora(task: str = "CAUSAL_LM") -> Any:
    from peft import LoraConfig

    return LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type=task)


def plain_trainer(folder: str, out: Path, **more: Any) -> Trainer:
    from peft import get_peft_model

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = [
        {"input_ids": [5 + n, 9, 7, 8], "attention_mask": [1, 1, 1, n % 2], "labels": [5, 9, 7, 8]}
        for n in range(6)
    ]
    arguments = TrainingArguments(output_dir=str(out), **ARGUMENTS)
    return Trainer(get_peft_model(model, lora()), arguments, train_dataset=rows, **more)


def test_the_callback_patches_for_the_time_of_training_and_tells_throughput(
    folder: str, tmp_path: Path
) -> None:
    shown: list[str] = []
    callback = KernelsCallback(show=shown.append)
    trainer = plain_trainer(folder, tmp_path, callbacks=[callback])
    got, want = losses(trainer), losses(plain_trainer(folder, tmp_path))
    assert got == pytest.approx(want, rel=1e-5)
    assert callback.report is not None
    assert not callback.report.active
    assert shown[0].startswith("LlamaForCausalLM: our kernels compute 26 of")
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["tokens_per_second"] > 0 for entry in steps)
    assert not trainer.model._forward_pre_hooks


def test_the_callback_leaves_the_patch_of_another_in_force(folder: str, tmp_path: Path) -> None:
    trainer = plain_trainer(folder, tmp_path)
    report = ck.patch(trainer.model)
    trainer.add_callback(KernelsCallback(report, show=lambda _: None))
    losses(trainer)
    assert report.active
    trainer.evaluate(trainer.train_dataset)


def sft(folder: str, out: Path) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [{"prompt": f"Count to {n}.", "completion": " one two three"} for n in range(8)]
    return SFTTrainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        SFTConfig(output_dir=str(out), bf16=False, gradient_checkpointing=False, **ARGUMENTS),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora(),
    )


PAIRS = [
    {"prompt": f"Count to {n}.", "chosen": " one two three", "rejected": " three one"}
    for n in range(8)
]


def dpo(folder: str, out: Path) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        args=DPOConfig(output_dir=str(out), bf16=False, gradient_checkpointing=False, **ARGUMENTS),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora(),
    )


def reward(folder: str, out: Path) -> Any:
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, num_labels=1
    )
    return RewardTrainer(
        model,
        args=RewardConfig(
            output_dir=str(out), bf16=False, gradient_checkpointing=False, **ARGUMENTS
        ),
        train_dataset=Dataset.from_list(PAIRS),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=lora("SEQ_CLS"),
    )


@pytest.mark.parametrize("make", [sft, dpo, reward])
def test_trl(make: Callable[..., Any], folder: str, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="TRL is not installed")

    def run(patched: bool) -> list[float]:
        torch.manual_seed(0)
        trainer = make(folder, tmp_path)
        if patched:
            report = ck.patch(trainer.model)
            assert sum(part.op == "lora_linear" for part in report.patched) == 14
            assert sum(part.op in ("unpadded", "rope") for part in report.patched) == 3
        return losses(trainer)

    want = run(patched=False)
    assert len(set(want)) == 3
    assert run(patched=True) == pytest.approx(want, rel=1e-5)
