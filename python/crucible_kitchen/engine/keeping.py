"""`Keeping`: a run's journal from before its first stage until after its last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crucible_kitchen.context import Context
from crucible_kitchen.errors import ConfigError
from crucible_kitchen.graph import Workflow
from crucible_kitchen.ports import Ports

from . import resume, rewind
from .checkpoint import Policy, as_policy
from .events import Handler
from .handlers.jsonl import JsonLines
from .journal import FOLDER, Journal, Saved, Story, read_journal
from .recorder import Recorder
from .runtime import Runtime
from .strand import Strand
from .vault import Vault


@dataclass
class Keeping:
    """How one run keeps its journal.

    Args:
        run_dir: the run's folder.
        policy: when checkpoints are written.
        story: what the journal says, where the run is resumed.
        allow_changed: whether to resume with another workflow, configuration or adapters.
    """

    run_dir: Path
    policy: Policy
    story: Story | None = None
    allow_changed: bool = False
    _journal: Journal | None = field(default=None, init=False)
    _recorder: Recorder | None = field(default=None, init=False)

    @classmethod
    def wanted(
        cls,
        run_dir: Path | None,
        checkpoint: str | Policy | None,
        resumed: bool,
        allow_changed: bool,
    ) -> Keeping | None:
        """What `run` is asked for; None where it keeps no journal.

        Raises:
            ConfigError: there is no folder to keep it in, or nothing to resume.
        """
        policy = as_policy(checkpoint)
        if policy is None and not resumed:
            return None
        if run_dir is None:
            option = "resume" if resumed else "checkpoint"
            raise ConfigError(f"{option} needs a run_dir, the folder that holds the journal")
        if not resumed:
            assert policy is not None
            return cls(run_dir, policy)
        story = read_journal(run_dir)
        return cls(run_dir, policy or resume.policy_of(story), story, allow_changed)

    @property
    def finished(self) -> bool:
        """Whether the run had come to its end."""
        return self.story is not None and self.story.finished is not None

    def open(self, workflow: Workflow, base: Context, seed: int, ports: Ports) -> Context:
        """Begin the journal, or put back what is there; the context to run with.

        Raises:
            ConfigError: the run was begun with something else, has finished with another
                configuration, or another process is running it.
        """
        now = resume.about(workflow, base, seed, self.policy, dict(base.adapters))
        vault = Vault(self.run_dir / FOLDER, ports, fsync=self.policy.fsync)
        story = self.story
        if story is None:
            self._journal = Journal(self.run_dir)
            self._journal.begin(now, fsync=self.policy.fsync)
            vault.restore({})
            self._recorder = Recorder(self._journal, vault, self.policy, Story(now, Saved(), {}))
            return base
        if not self.allow_changed:
            resume.refuse_changes(story.about, now, self.run_dir)
        base = base.replace(_metadata={**base.metadata, **story.about["metadata"]})
        if self.finished:
            resume.refuse_late_changes(story.about["config"], now["config"], self.run_dir)
            return resume.finished_context(story, base, vault)
        self._journal = Journal(self.run_dir, story.length)
        vault.restore(story.handles)
        store = ports.get("metrics_store")
        if store is not None:
            known = rewind.records(story, vault)
            rewind.rewind_metrics(ports.metrics_store, base.get_metadata("run_id"), known)
        self._recorder = Recorder(self._journal, vault, self.policy, story)
        self._recorder.lines = rewind.rewind_events(self.run_dir / JsonLines.FILE, story.main)
        return base

    def follow(self, runtime: Runtime, handlers: Sequence[Handler]) -> None:
        """Have the runtime write its checkpoints."""
        recorder = self._recorder
        assert recorder is not None
        for handler in handlers:
            if isinstance(handler, JsonLines) and handler.path.parent == self.run_dir:
                recorder.listener = handler
                handler.lines = recorder.lines
        runtime.strand = Strand(recorder, runtime)

    def close(self) -> None:
        """Close the journal's file."""
        if self._journal is not None:
            self._journal.close()
