"""`Job`: a run that is ready to start, and what its folder will say of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from crucible_kitchen import graph
from crucible_kitchen.engine import Handler, Policy, Seconds
from crucible_kitchen.engine.keepable import checkpoint_problems
from crucible_kitchen.engine.resume import class_name
from crucible_kitchen.errors import WorkflowError
from crucible_kitchen.recipes import Target

from .versions import versions

_CHECKPOINT: Final = Seconds(60)


@dataclass
class Job:
    """A run that is ready to start.

    Args:
        target: what to run.
        config: checked.
        adapters: as `engine.run` takes them.
        owned: adapters made here, to be closed after the run.
        run_dir: the run's folder, None where it keeps none.
        metadata: for the run's context.
        asked: what the run was asked for, to take it up again by its folder.
        keeping: what the engine is told of checkpoints.
    """

    target: Target
    config: Any
    adapters: dict[str, Any]
    owned: list[Any]
    run_dir: Path | None
    metadata: dict[str, Any]
    asked: dict[str, Any]
    keeping: dict[str, Any] = field(default_factory=dict)

    @property
    def resumed(self) -> bool:
        """Whether the run goes on with one that was stopped."""
        return "resume" in self.keeping

    def keep(self, checkpoint: str | Policy | None, resumed: bool, allow_changed: bool) -> None:
        """Settle when checkpoints are written, and whether they are gone on from."""
        if checkpoint == "auto":
            # What nobody asked for must not keep a run from starting.
            able = not [*checkpoint_problems(self.target.workflow, self.adapters)]
            wanted = self.target.recipe is not None and able and not resumed
            checkpoint = _CHECKPOINT if wanted else None
        self.keeping = {"checkpoint": checkpoint}
        if resumed:
            self.keeping |= {"resume": True, "allow_changed": allow_changed}

    def check(self) -> None:
        """Check everything that can be checked without running.

        Raises:
            WorkflowError: with every problem of the workflow, its adapters and its checkpoints.
        """
        problems = graph.find_problems(self.target.workflow, self.config, self.adapters)
        if self.keeping.get("checkpoint") is not None:
            problems += checkpoint_problems(self.target.workflow, self.adapters)
        if problems:
            raise WorkflowError(problems)

    def close(self) -> None:
        """Close the adapters that were made for the run, the last made first."""
        for adapter in reversed(self.owned):
            adapter.close()

    def about(self) -> dict[str, Any]:
        """What ``config.json`` says."""
        config = self.config
        recipe = self.target.recipe.name if self.target.recipe else None
        workflow = graph.describe(self.target.workflow)
        return {
            "recipe": recipe,
            "workflow": workflow,
            **self.metadata,
            "config": config.model_dump() if hasattr(config, "model_dump") else dict(config),
            "adapters": {port: class_name(one) for port, one in self.adapters.items()},
            "asked": {**self.asked, "checkpoint": self.keeping.get("checkpoint") is not None},
            "versions": versions(),
        }

    def options(
        self, handlers: Iterable[str | Handler], most: int | None, check_inputs: bool
    ) -> dict[str, Any]:
        """What the engine is called with.

        Args:
            handlers: of the run.
            most: stages that run at once; None for as many as it pays.
            check_inputs: whether stages are watched for changes of what they read.
        """
        chosen = [handlers] if isinstance(handlers, str) else list(handlers)
        if self.run_dir is not None and "jsonl" not in chosen:
            chosen.append("jsonl")
        return {
            "handlers": chosen,
            "max_concurrency": most,
            "check_inputs": check_inputs,
            "run_dir": self.run_dir,
            "metadata": self.metadata,
            **self.keeping,
        }
