"""Our kernels in transformers' Trainer, by a callback that also tells tokens per second.

Run it as ``python examples/drop_in_trainer.py MODEL``, MODEL a folder or a name on the Hub.
"""

import sys
import tempfile

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from crucible_kitchen.integrations import KernelsCallback

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
tokens = tokenizer("The cook reads the recipe and returns.")["input_ids"]
rows = [{"input_ids": tokens, "labels": tokens}] * 8

with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder, max_steps=4, learning_rate=1e-3, logging_steps=1, report_to=[], disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[KernelsCallback()])
    trainer.train()
