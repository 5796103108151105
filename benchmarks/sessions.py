"""Several sessions over one model, in one pass and one after another.

    python -m crucible_kitchen.benchmarks.sessions [--dtype bfloat16] [--threads 2] [--save FOLDER]

Samples are taken in turn in one process, so a slow minute slows both; every result and gradient of
the one must be, bit for bit, that of the other. With ``--save`` the figures are written below the
device's name, as ``sessions-<dtype>-<threads>t.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from crucible_kitchen.adapters.local import TrainingClient
from crucible_kitchen.adapters.local.training_client import LocalSession
from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.types import AdamParams, Datum, ForwardBackwardResult, ModelInput, TensorData

from .errors_of import WrongResult
from .timing import CLOCKS, machine, slug


@dataclass(frozen=True)
class Row:
    """What `forward_backward` of several sessions took: one after another, and together."""

    sessions: int
    tokens_each: int
    one_by_one_s: float
    together_s: float
    ratio: float


def main(arguments: list[str] | None = None) -> None:
    """Print memory by the number of sessions, then time by it and by their tokens."""
    asked = _parser().parse_args(arguments)
    torch.set_num_threads(asked.threads)
    client = TrainingClient(device="cpu", hub_client=HubClient())
    sessions, memory = [], []
    for seed in range(max(asked.sessions)):
        config = {"model": asked.model, "dtype": asked.dtype, "lora_rank": asked.rank, "seed": seed}
        sessions.append(client.start_session(config))
        client.forward_backward(sessions[-1], [_datum(sessions[-1], 16, seed)])
        client.optim_step(sessions[-1], AdamParams(learning_rate=1e-4)).result()
        memory.append(_resident_mib())
        print(f"{seed + 1} sessions: {memory[-1]:.0f} MiB")
    rows = []
    for count in asked.sessions:
        for length in asked.lengths:
            rows.append(_compare(client, sessions[:count], length, asked.samples, asked.clock))
            print(_line(rows[-1]), flush=True)
    client.close()
    if asked.save is not None:
        where = machine("cpu")
        target = asked.save / slug(where["device"])
        target.mkdir(parents=True, exist_ok=True)
        path = target / f"sessions-{asked.dtype}-{asked.threads}t.json"
        found = {"machine": where, "mib": memory, "figures": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(f"written: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--sessions", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 16, 64], help="tokens each")
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    parser.add_argument("--save", type=Path, metavar="FOLDER")
    return parser


def _line(row: Row) -> str:
    return (
        f"{row.sessions} sessions, {row.tokens_each:>3} tokens each: one by one "
        f"{1e3 * row.one_by_one_s:.0f} ms, together {1e3 * row.together_s:.0f} ms, "
        f"ratio {row.ratio:.2f}"
    )


def _compare(
    client: TrainingClient, sessions: list[LocalSession], length: int, samples: int, clock: str
) -> Row:
    data = [[_datum(session, length, seed)] for seed, session in enumerate(sessions)]
    pairs = []
    for _ in range(samples):
        alone, wanted = _timed(client, sessions, data, clock, together=False)
        joint, got = _timed(client, sessions, data, clock, together=True)
        if not all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)):
            raise WrongResult(f"{len(sessions)} sessions of {length} tokens: bits differ")
        pairs.append((alone, joint))
    one, other = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(alone / joint for alone, joint in pairs)
    return Row(len(sessions), length, one, other, ratio)


def _timed(
    client: TrainingClient,
    sessions: list[LocalSession],
    data: list[list[Datum]],
    clock: str,
    *,
    together: bool,
) -> tuple[float, list[Tensor]]:
    """Seconds, and all that came of it."""
    gate = threading.Event()
    client.worker.submit(gate.wait)
    now = CLOCKS[clock]
    results: list[ForwardBackwardResult] = []
    if together:
        asked = [client.forward_backward(s, d) for s, d in zip(sessions, data, strict=True)]
        began = now()
        gate.set()
        results += [future.result() for future in asked]
    else:
        gate.set()
        began = now()
        results += [
            client.forward_backward(s, d).result() for s, d in zip(sessions, data, strict=True)
        ]
    took = now() - began
    made = [r.loss_fn_outputs[0]["logprobs"].torch() for r in results]
    for session in sessions:
        trainer = client.trainer(session)
        made += [p.grad.clone() for p in trainer.parameters if p.grad is not None]
        trainer.optimizer.zero_grad()
    return took, made


def _datum(session: LocalSession, length: int, seed: int) -> Datum:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, session.vocabulary, (length + 1,), generator=generator).tolist()
    inputs = {"target_tokens": TensorData(tokens[1:]), "weights": TensorData([1.0] * length)}
    return Datum(ModelInput.from_ints(tokens[:-1]), inputs)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
