"""Times the kernels of ops on this machine, after they have passed their conformance test.

python -m benchmarks.run adamw_step --dtype float32 --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from crucible_kitchen import ops

from . import roofline
from .calls import calls_of, sizes_of, work_of
from .timing import interleaved, machine

ROOT = Path(__file__).parents[1]


def conforms(op: str, backends: tuple[str, ...]) -> bool:
    """Whether the op passes its conformance test here; its output is shown if it does not."""
    test = str(ROOT / "tests" / "kernels" / "test_conformance.py")
    chosen = f"{op}- or {op}]"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-k", chosen, test],
        env=os.environ | {"CRUCIBLE_BACKENDS": ",".join(backends)},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if run.returncode != 0:
        print(run.stdout[-4000:], run.stderr[-1000:], file=sys.stderr)
    return run.returncode == 0


def measure(
    op: str,
    size_name: str,
    dtype: torch.dtype,
    device: str,
    backends: tuple[str, ...],
    samples: int,
) -> dict[str, Any]:
    """One table row for each kernel and peer, printed as it comes and returned."""
    size = sizes_of(op)[size_name]
    calls, refused = calls_of(op, size, dtype, device, backends)
    timings = interleaved(calls, device=device, samples=samples)
    work = work_of(op, size, dtype)
    peak = roofline.measure(device, dtype) if work else None
    print(f"\n{op}  {size_name}  {dtype}  median [quartiles] of {samples}")
    rows = {}
    for name, timing in timings.items():
        share = peak.share(work, timing.median) if work and peak else None
        rows[name] = {"median_s": timing.median, "low_s": timing.low, "high_s": timing.high}
        rows[name] |= {"roofline": share} if share else {}
        spread = f"[{1e3 * timing.low:.3f}, {1e3 * timing.high:.3f}]"
        shown = f"  {share:.0%} of roofline" if share else ""
        print(f"  {name:<14} {1e3 * timing.median:9.3f} ms {spread:<20}{shown}")
    for name, reason in refused.items():
        print(f"  {name:<14} refused: {reason}")
    return {"op": op, "size": size_name, "dtype": str(dtype), "timings": rows, "refused": refused}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("op", nargs="*", choices=[*ops.OPS, []], help="ops to time; all of them")
    parser.add_argument("--size", action="append", help="names of sizes; all of them")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backends", help="comma-separated; all that can run on the device")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Returns 1 if an op was not timed because it computes wrong values."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    usual = "cuda,triton,reference" if options.device == "cuda" else "cpu,reference"
    backends = tuple((options.backends or usual).split(","))
    where = machine(options.device)
    print("  ".join(f"{name} {value}" for name, value in where.items()))
    results, red = [], []
    for op in options.op or ops.OPS:
        if not conforms(op, backends):
            red.append(op)
            continue
        for size in sizes_of(op):
            if not options.size or size in options.size:
                dtype = getattr(torch, options.dtype)
                results.append(measure(op, size, dtype, options.device, backends, options.samples))
    if options.json:
        options.json.write_text(json.dumps({"machine": where, "results": results}, indent=2))
    if red:
        print(f"not timed, conformance fails: {', '.join(red)}", file=sys.stderr)
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
