"""Our ops and modules in a model of one's own: no transformers, no PEFT.

Run it as ``python examples/drop_in_ops.py``.
"""

import torch
from torch import nn

from crucible_kitchen import ops
from crucible_kitchen.nn import LoraConfig, apply_lora, lora_parameters, merge_lora
from crucible_kitchen.optim import AdamW


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.gate, self.up, self.down = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = ops.rms_norm(x, self.gain, 1e-6)
        return x + self.down(ops.swiglu(self.gate(h), self.up(h)))


torch.manual_seed(0)
body, head = nn.Sequential(nn.Embedding(64, 32), Block(32), Block(32)), nn.Linear(32, 64)
apply_lora(body, LoraConfig(rank=4))  # freezes the body; its linears learn a low-rank update
print(ops.explain("lora_linear", torch.empty(1, 32)))
optimizer = AdamW(lora_parameters(body), lr=3e-3)
tokens = torch.randint(0, 64, (256,))

for step in range(20):
    hidden = body(tokens[:-1])
    loss = ops.linear_cross_entropy(hidden, head.weight.detach(), tokens[1:])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step + 1}: loss {loss:.3f}")
merge_lora(body)
