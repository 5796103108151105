"""A torch training loop of one's own on a model of transformers with PEFT, and our kernels in it.

Run it as ``python examples/drop_in_loop.py MODEL``, MODEL a folder or a name on the Hub.
"""

import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import crucible_kitchen as ck
from crucible_kitchen.optim import AdamW

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))

report = ck.patch(model)  # the one line
print(report)

optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, max_grad_norm=1.0)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
batch = tokenizer(["A kitchen has a recipe.", "The cook reads it."], padding=True)
batch = {name: torch.tensor(rows) for name, rows in batch.items() if name != "token_type_ids"}
labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

for step in range(10):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    print(f"step {step + 1}: loss {loss:.3f}, gradient {optimizer.last_grad_norm:.3f}")

report.undo()  # the model runs its own code again
