"""What a local model is asked beside training, in bfloat16 beside float32.

    python -m crucible_kitchen.benchmarks.dtype_times [--threads 2] [--samples 5] [--save FOLDER]

Drawing, log-probabilities, scores and held-out losses, of a model alone and with LoRA on every
linear. Samples of both dtypes are taken in turn in one process, so a slow minute slows both. With
``--save`` the figures are written below the device's name, as ``dtype_times-<threads>t.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from crucible_kitchen.adapters.local import SamplingClient, TrainingClient
from crucible_kitchen.adapters.local.sampler import sample
from crucible_kitchen.adapters.local.sampling_client import Loaded, live
from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.types import SamplingParams

from .timing import CLOCKS, interleaved, machine, slug

DTYPES: Final = ("float32", "bfloat16")
# Tokens of a row, and rows at once.
LENGTH: Final = 200
ROWS: Final = 4


@dataclass(frozen=True)
class Row:
    """What was asked, and tokens a second in each dtype; `ratio` is bfloat16's over float32's."""

    what: str
    tokens: int
    float32: float
    bfloat16: float
    ratio: float


class Model:
    """One model in one dtype, and all that it is asked.

    Args:
        name: as users call it.
        dtype: of its weights.
        drawn: tokens a sample.
    """

    def __init__(self, name: str, dtype: str, drawn: int) -> None:
        hub, config = HubClient(), {"model": name, "dtype": dtype}
        self._training = TrainingClient(device="cpu", hub_client=hub)
        self._plain = SamplingClient(device="cpu", hub_client=hub)
        self._alone = self._plain.start_session(config)
        self._trained = self._training.start_session(config)
        self._scored = self._training.start_session({**config, "head": "scalar"})
        self._drawn = SamplingParams(max_tokens=drawn, temperature=0.0, stop=())
        generator = torch.Generator().manual_seed(0)
        shape = ROWS, LENGTH + 1
        self._rows = torch.randint(3, self._trained.vocabulary, shape, generator=generator).tolist()

    def asked(self) -> dict[str, tuple[int, Callable[[], object]]]:
        """By what is asked: of how many tokens, and a call."""
        alone = self._plain.loaded(self._alone)
        lora = live(self._training, self._trained)
        count = self._drawn.max_tokens
        shown = [{"model_input": row, "loss_fn_inputs": {}} for row in self._rows]
        held_out = [
            {
                "model_input": row[:-1],
                "loss_fn_inputs": {"target_tokens": row[1:], "weights": [1.0] * LENGTH},
            }
            for row in self._rows
        ]
        return {
            "one sample": (count, lambda: self._draw(alone, 1)),
            "eight samples": (8 * count, lambda: self._draw(alone, 8)),
            "one sample, LoRA": (count, lambda: self._draw(lora, 1)),
            "eight samples, LoRA": (8 * count, lambda: self._draw(lora, 8)),
            "log-probabilities": (ROWS * LENGTH, self._logprobs),
            "scores, LoRA": (
                ROWS * (LENGTH + 1),
                lambda: self._training.score(self._scored, shown).result(),
            ),
            "held-out loss, LoRA": (
                ROWS * LENGTH,
                lambda: self._training.forward(self._trained, held_out).result(),
            ),
        }

    def close(self) -> None:
        """Let its memory go."""
        self._plain.close()
        self._training.close()

    def _draw(self, loaded: Loaded, count: int) -> object:
        prompt = self._rows[0][:60]
        run = loaded.worker.submit(
            lambda: sample(loaded.model, loaded.tokenizer, prompt, count, self._drawn)
        )
        return run.result()

    def _logprobs(self) -> object:
        rows = [self._plain.compute_logprobs(self._alone, row) for row in self._rows]
        return [row.result() for row in rows]


def measured(models: Mapping[str, Model], samples: int, clock: str) -> list[Row]:
    """A row for each question, of models by dtype."""
    rows = []
    by_dtype = {dtype: model.asked() for dtype, model in models.items()}
    for what, (tokens, _) in by_dtype[DTYPES[0]].items():
        calls = {dtype: by_dtype[dtype][what][1] for dtype in DTYPES}
        times = interleaved(calls, device="cpu", samples=samples, warmup=1, clock=clock)
        speeds = {dtype: tokens / times[dtype].median for dtype in DTYPES}
        rows.append(Row(what, tokens, **speeds, ratio=times[DTYPES[0]].over(times[DTYPES[1]])))
        print(_line(rows[-1]), flush=True)
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each question, and save them where asked."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(asked.threads)
    models = {dtype: Model(asked.model, dtype, asked.drawn) for dtype in DTYPES}
    rows = measured(models, asked.samples, asked.clock)
    for model in models.values():
        model.close()
    if asked.save is not None:
        where: dict[str, Any] = machine("cpu")
        target = asked.save / slug(where["device"])
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"dtype_times-{asked.threads}t.json"
        found = {"machine": where, "model": asked.model, "figures": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"written: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--drawn", type=int, default=32, help="tokens of each sample")
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    parser.add_argument("--save", type=Path, metavar="FOLDER")
    return parser


def _line(row: Row) -> str:
    return (
        f"{row.what:20} {row.float32:7.1f} tokens/s in float32, {row.bfloat16:7.1f} in bfloat16, "
        f"ratio {row.ratio:.2f}"
    )


if __name__ == "__main__":
    main()
