"""Our kernels in a loop on Accelerate: patch the model, then prepare it.

Run it as ``python examples/drop_in_accelerate.py MODEL``, or by ``accelerate launch``.
"""

import sys

import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import crucible_kitchen as ck
from crucible_kitchen.optim import AdamW

accelerator = Accelerator()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))

report = ck.patch(model)  # before prepare(), which may wrap the model
accelerator.print(report)

optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
rows = [torch.tensor(tokenizer("A kitchen has a recipe.")["input_ids"])] * 8
loader = torch.utils.data.DataLoader(rows, batch_size=2)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

for tokens in loader:
    loss = model(input_ids=tokens, labels=tokens).loss
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.print(f"loss {loss:.3f}")
