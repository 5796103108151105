"""The first step of `dpo` has the loss that TRL computes on the same rows and models."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import crucible_kitchen as ck
from crucible_kitchen.testing.tiny_model import tiny_llama

pytest.importorskip("trl", reason="TRL is compared with where it is installed")
pytestmark = pytest.mark.filterwarnings("ignore")

# TRL trains all that a template writes behind an answer, so nothing may stand there.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ROWS = [
    {
        "prompt": [{"role": "user", "content": f"Count from {n}."}],
        "chosen": [{"role": "assistant", "content": "one two three " * (1 + n % 3)}],
        "rejected": [{"role": "assistant", "content": "no. I will not " * (1 + n % 2)}],
    }
    for n in range(6)
]


def model_of(folder: Path, seed: int) -> str:
    tiny_llama(folder, seed=seed)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """The model that is trained, and its reference."""
    folder = tmp_path_factory.mktemp("models")
    return model_of(folder / "policy", 0), model_of(folder / "reference", 5)


@pytest.fixture(scope="module")
def trl(models, tmp_path_factory):
    """TRL's loss of all rows under some options."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    policy, reference = (
        AutoModelForCausalLM.from_pretrained(m, dtype=torch.float32) for m in models
    )
    folder = tmp_path_factory.mktemp("trl")
    settings = {
        "output_dir": str(folder),
        "per_device_train_batch_size": len(ROWS),
        "max_length": 512,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }

    def loss(**options) -> float:
        trainer = DPOTrainer(
            model=policy.eval(),
            ref_model=reference.eval(),
            args=DPOConfig(**settings, **options),
            train_dataset=Dataset.from_list(ROWS),
            processing_class=AutoTokenizer.from_pretrained(models[0]),
        )
        batch = next(iter(trainer.get_train_dataloader()))
        with torch.no_grad():
            return float(trainer._compute_loss(trainer.model, batch, return_outputs=False))

    yield loss
    shutil.rmtree(folder)


@pytest.fixture
def ours(models, tmp_path, monkeypatch):
    """Our loss of the same."""
    monkeypatch.setenv("CRUCIBLE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def loss(**options) -> float:
        config = {
            "model": models[0],
            "reference_model": models[1],
            "dataset": str(path),
            "eval_rows": 0,
            "samples": 0,
            "batch_size": len(ROWS),
            "max_steps": 1,
            "dtype": "float32",
            "lora_rank": 2,
        }
        result = ck.run("dpo", {**config, **options}, run_dir=tmp_path / "run", handlers=())
        return result.metrics.latest("loss")

    return loss


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"loss_type": "sigmoid", "beta": 0.3}, {}),
        ({"loss_type": "hinge"}, {}),
        ({"loss_type": "ipo"}, {}),
        ({"loss_type": "exo_pair", "label_smoothing": 0.1}, {}),
        ({"loss_type": "robust", "label_smoothing": 0.1}, {}),
        ({"loss_type": "nca_pair"}, {}),
        ({"loss_type": "sppo_hard"}, {}),
        ({"loss_type": "aot"}, {}),
        ({"loss_type": "aot_unpaired"}, {}),
        ({"loss_type": "apo_zero"}, {}),
        ({"loss_type": "apo_down"}, {}),
        ({"loss_type": "discopop"}, {}),
        ({"loss_type": "sigmoid_norm", "beta": 2.0}, {}),
        ({"loss_type": "sigmoid", "ld_alpha": 0.4}, {}),
        ({"divergence": "forward_kl"}, {"f_divergence_type": "forward_kl"}),
        ({"divergence": "js"}, {"f_divergence_type": "js_divergence"}),
        # Their alpha counts from the other end.
        (
            {"divergence": "alpha", "divergence_alpha": 0.3},
            {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
        ),
        (
            {"loss_type": {"sigmoid": 0.8, "apo_zero": 0.5}},
            {"loss_type": ["sigmoid", "apo_zero"], "loss_weights": [0.8, 0.5]},
        ),
    ],
)
def test_the_loss_is_theirs(ours, trl, options, theirs) -> None:
    same = {"beta": 0.1, **options}
    for ours_only in ("divergence", "divergence_alpha"):
        same.pop(ours_only, None)
    want = trl(**{**same, **theirs})
    assert math.isfinite(want)
    assert ours(**options) == pytest.approx(want, rel=2e-5)
