"""Several sessions over one model, in one pass and one after another.

Run: ``python -m crucible_kitchen.benchmarks.sessions [--threads 2] [--dtype bfloat16]``. Samples
are taken in turn in one process, so a slow minute slows both; every result and gradient of the one
must be, bit for bit, that of the other.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
from pathlib import Path

import torch
from torch import Tensor

from crucible_kitchen.adapters.local import TrainingClient
from crucible_kitchen.adapters.local.training_client import LocalSession
from crucible_kitchen.adapters.wheel import HubClient
from crucible_kitchen.types import AdamParams, Datum, ForwardBackwardResult, ModelInput, TensorData

from .errors_of import WrongResult
from .timing import CLOCKS

SESSIONS, LENGTHS = (4, 8), (4, 16, 64, 256)


def main() -> None:
    """Print memory by the number of sessions, then time by it and by their tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--clock", default="wall", choices=sorted(CLOCKS))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    client = TrainingClient(device="cpu", hub_client=HubClient())
    sessions = []
    for seed in range(max(SESSIONS)):
        config = {"model": asked.model, "dtype": asked.dtype, "lora_rank": asked.rank, "seed": seed}
        sessions.append(client.start_session(config))
        client.forward_backward(sessions[-1], [_datum(16, seed)])
        client.optim_step(sessions[-1], AdamParams(learning_rate=1e-4)).result()
        print(f"{seed + 1} sessions: {_resident_mib():.0f} MiB")
    for count in SESSIONS:
        for length in LENGTHS:
            _compare(client, sessions[:count], length, asked.samples, asked.clock)
    client.close()


def _compare(
    client: TrainingClient, sessions: list[LocalSession], length: int, samples: int, clock: str
) -> None:
    data = [[_datum(length, seed)] for seed, _ in enumerate(sessions)]
    pairs = []
    for _ in range(samples):
        alone, wanted = _timed(client, sessions, data, clock, together=False)
        joint, got = _timed(client, sessions, data, clock, together=True)
        if not all(torch.equal(a, b) for a, b in zip(wanted, got, strict=True)):
            raise WrongResult(f"{len(sessions)} sessions of {length} tokens: bits differ")
        pairs.append((alone, joint))
    ratio = statistics.median(alone / joint for alone, joint in pairs)
    one, other = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{len(sessions)} sessions, {length:>3} tokens each: one by one {one:.0f} ms, "
        f"together {other:.0f} ms, ratio {ratio:.2f}"
    )


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


def _datum(length: int, seed: int) -> Datum:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, 40_000, (length + 1,), generator=generator).tolist()
    inputs = {"target_tokens": TensorData(tokens[1:]), "weights": TensorData([1.0] * length)}
    return Datum(ModelInput.from_ints(tokens[:-1]), inputs)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
