"""Our kernels in TRL's SFTTrainer: patch the trainer's model, which has its LoRA by then.

Run it as ``python examples/drop_in_trl.py MODEL``, MODEL a folder or a name on the Hub.
DPOTrainer and RewardTrainer take the same line at the same place.
"""

import sys
import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

import crucible_kitchen as ck

rows = [{"prompt": f"Count to {n}.", "completion": " one two three"} for n in range(8)]

with tempfile.TemporaryDirectory() as folder:
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32),
        SFTConfig(
            folder, max_steps=4, learning_rate=1e-3, logging_steps=1, report_to=[], bf16=False
        ),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=8, target_modules="all-linear"),
    )
    print(ck.patch(trainer.model))
    trainer.train()
