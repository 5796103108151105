"""Our kernels in a module of Lightning: patch the model where the module takes it.

Run it as ``python examples/drop_in_lightning.py MODEL``, MODEL a folder or a name on the Hub.
"""

import sys

import lightning
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import crucible_kitchen as ck
from crucible_kitchen.optim import AdamW


class Tuned(lightning.LightningModule):
    def __init__(self, name: str) -> None:
        super().__init__()
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        self.model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
        self.report = ck.patch(self.model)

    def training_step(self, tokens: torch.Tensor) -> torch.Tensor:
        loss = self.model.train()(input_ids=tokens, labels=tokens).loss
        print(f"loss {loss:.3f}")
        return loss

    def configure_optimizers(self) -> AdamW:
        return AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


tuned = Tuned(sys.argv[1])
print(tuned.report)
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("A kitchen has a recipe.")["input_ids"]
loader = torch.utils.data.DataLoader([torch.tensor(tokens)] * 8, batch_size=2)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
lightning.Trainer(max_epochs=1, accelerator="auto", devices=1, **quiet).fit(tuned, loader)
