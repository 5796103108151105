"""Fine-tune a model on a file of one's own, and ask it something, from Python.

Run it as ``python examples/sft.py [key=value ...]``; ``crucible describe sft`` lists the keys.
"""

import sys

import crucible_kitchen as ck
from crucible_kitchen.recipes import SupervisedFineTuning, parse

settings = dict(argument.split("=", 1) for argument in sys.argv[1:])
config = SupervisedFineTuning.Config(
    **{"max_steps": 10, **{key: parse(value, key) for key, value in settings.items()}}
)


def watch(event: ck.Event) -> None:
    """A handler is any function that takes an event."""
    if event.kind == "metric" and event.name == "loss":
        print(f"step {event.step}: loss {event.value:.3f}")


result = ck.run(SupervisedFineTuning, config, handlers=[watch])
losses = [record.value for record in result.metrics.history("eval_loss")]
print(f"held-out loss {losses[0]:.3f} -> {losses[-1]:.3f}")
print(f"adapter: {result.artifacts['adapter_path']}")
print(f"report: {result.run_dir / 'report.html'}")
