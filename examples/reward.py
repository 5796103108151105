"""Teach a model to score answers, and score some, from Python.

Run it as ``python examples/reward.py [key=value ...]``; ``crucible describe reward`` lists the
keys. A data set of one's own is a file of rows with ``prompt``, ``chosen`` and ``rejected``, and
perhaps a ``margin`` or ``tie: true``.
"""

import sys

import crucible_kitchen as ck
from crucible_kitchen.adapters.local import RewardModel
from crucible_kitchen.recipes import RewardModeling, parse

settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
config = RewardModeling.Config(
    **{"max_steps": 10, **{key: parse(value, key) for key, value in settings.items()}}
)

result = ck.run(RewardModeling, config, handlers=())
for name in ("eval_loss", "eval_accuracy", "eval_margin"):
    values = [record.value for record in result.metrics.history(name)]
    print(f"{name} {values[0]:.3f} -> {values[-1]:.3f}")

reward = RewardModel(result.run_dir, model=result.context.state.model_path)
prompt = "Summarize the Python function `def double(x): return 2 * x`."
for answer in ("Return twice the argument.", "Return the number of lines in a file."):
    print(f"score {reward.score(prompt, answer):+.3f}  {answer}")
