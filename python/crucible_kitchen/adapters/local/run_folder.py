"""The folder of a run that several processes take up: the first one's; copies for the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from torch.distributed.rendezvous import rendezvous

from crucible_kitchen.adapters.local.group import speaking_of_others


class RunFolder:
    """What this process goes on in; all hold the same weights, so one's checkpoints are everyone's.

    Made in every process before any of them changes the folder.

    Args:
        run_dir: of the run, which every process can read.

    Attributes:
        path: `run_dir` itself in the first process; in another a copy, which `close` removes.
    """

    def __init__(self, run_dir: Path) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.path = run_dir
        with speaking_of_others("take up a run"):
            store, rank, size = next(rendezvous("env://"))
            if rank:
                prefix = f"crucible-rank-{rank}-"
                self._temporary = tempfile.TemporaryDirectory(prefix=prefix)
                self.path = Path(self._temporary.name) / "run"
                shutil.copytree(run_dir, self.path)
            # `torchrun` starts processes anew in rounds, which share its store.
            around = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store.set(f"crucible/copied/{around}/{rank}", "yes")
            store.wait([f"crucible/copied/{around}/{other}" for other in range(size)])

    def close(self) -> None:
        """Remove a copy."""
        if self._temporary is not None:
            self._temporary.cleanup()
