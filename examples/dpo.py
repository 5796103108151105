"""Teach a model which of two answers is the better one, from Python.

Run it as ``python examples/dpo.py [key=value ...]``; ``crucible describe dpo`` lists the keys. A
data set of one's own is a file of rows with ``prompt``, ``chosen`` and ``rejected``.
"""

import sys

import crucible_kitchen as ck
from crucible_kitchen.recipes import DPO, parse

settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
config = DPO.Config(
    **{"max_steps": 10, **{key: parse(value, key) for key, value in settings.items()}}
)

result = ck.run(DPO, config, handlers=())
for name in ("eval_loss", "eval_accuracy", "eval_margin"):
    values = [record.value for record in result.metrics.history(name)]
    print(f"{name} {values[0]:.3f} -> {values[-1]:.3f}")
print(f"adapter: {result.artifacts['adapter_path']}")
