"""``crucible run``: a recipe to its end, with a folder of what it left behind."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from crucible_kitchen import bootstrap
from crucible_kitchen.engine import Event, Every, RunResult, Seconds
from crucible_kitchen.engine.checkpoint import Policy
from crucible_kitchen.engine.handlers.console import Console
from crucible_kitchen.errors import ConfigError

from ._arguments import add_target, read_adapters, read_config

HELP = "run a recipe"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_target(parser)
    parser.add_argument("--run-dir", help="new folder for what the run leaves behind")
    parser.add_argument(
        "--checkpoint",
        metavar="WHEN",
        default="auto",
        help="when to write down where the run stands: stage (after each), 100 (after every "
        "hundredth), 60s (once a minute) or never; by default a recipe does once a minute and a "
        "workflow never",
    )
    parser.add_argument("--quiet", action="store_true", help="print only the folder, at the end")


def main(arguments: argparse.Namespace) -> int:
    """Run it."""
    config = read_config(arguments.config)
    adapters = read_adapters(arguments.target, arguments.adapters, arguments.adapter)
    checkpoint = read_checkpoint(arguments.checkpoint)
    if rank := int(os.environ.get("RANK", "0")):
        # One of several processes of `torchrun`: the first one's folder is the run's.
        with tempfile.TemporaryDirectory(prefix=f"crucible-rank-{rank}-") as folder:
            run_dir = Path(folder) / "run"
            bootstrap.run(arguments.target, config, adapters, run_dir=run_dir, handlers=())
        return 0
    handlers = () if arguments.quiet else (Progress(),)
    result = bootstrap.run(
        arguments.target,
        config,
        adapters,
        run_dir=arguments.run_dir,
        handlers=handlers,
        checkpoint=checkpoint,
    )
    if arguments.quiet:
        print(result.run_dir)
    else:
        print(summary(result))
    return 0


def read_checkpoint(text: str) -> str | Policy | None:
    """What ``--checkpoint`` asks for.

    Raises:
        ConfigError: it is no moment.
    """
    if text in ("auto", "stage"):
        return text
    if text == "never":
        return None
    number = text.removesuffix("s")
    try:
        return Every(int(number)) if number == text else Seconds(float(number))
    except ValueError:
        raise ConfigError(f"--checkpoint must be stage, 100, 60s or never, got {text!r}") from None


class Progress(Console):
    """The console handler, but for the error of the run: `crucible` prints that itself, once."""

    def __call__(self, event: Event) -> None:
        if event.kind != "run.error":
            super().__call__(event)


def summary(result: RunResult) -> str:
    """What a run gave, in a few lines."""
    lines = []
    names = result.metrics.names()
    if "eval_loss" in names:
        losses = [record.value for record in result.metrics.history("eval_loss")]
        unit = "per pair" if "accuracy" in names else "nats per token"
        lines.append(
            f"held-out loss  {losses[0]:.3f} -> {losses[-1]:.3f} {unit} "
            f"({losses[-1] - losses[0]:+.3f})"
        )
    if "eval_accuracy" in names:
        right = [record.value for record in result.metrics.history("eval_accuracy")]
        lines.append(f"  accuracy     {right[0]:.3f} -> {right[-1]:.3f} of the pairs")
    if "tokens" in names:
        tokens = [record.value for record in result.metrics.history("tokens")]
        lines.append(
            f"trained        {len(tokens)} steps, {sum(tokens):,.0f} tokens, "
            f"{result.duration_s:.0f} s in all"
        )
    reason = result.context.get_state("stop_reason", "")
    if reason:
        lines.append(f"stopped        after step {result.context.state.step}: {reason}")
    if "restored_step" in names:
        lines.append(
            f"kept           the model of step {result.metrics.latest('restored_step'):.0f}, whose "
            f"held-out loss of {result.metrics.latest('restored_eval_loss'):.3f} is the lowest"
        )
    adapter = result.artifacts.get("adapter_path")
    if adapter:
        lines.append(
            f"adapter        {os.path.relpath(adapter) if os.path.exists(adapter) else adapter}"
        )
    if result.context.get_state("registered_model"):
        lines.append(f"registered     {result.context.state.registered_model}")
    if result.run_dir is not None:
        lines.append(f"report         {result.run_dir / 'report.html'}")
        if adapter and "samples_before" in result.context.state and sys.stdout.isatty():
            lines.append(
                f'try it         crucible complete {result.run_dir} "What does os.getcwd do?"'
            )
    return "\n".join(lines)
