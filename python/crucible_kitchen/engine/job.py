"""`Job`: one run with all that is opened for it and closed after it."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from crucible_kitchen.context import Context
from crucible_kitchen.errors import CrucibleError, WorkflowError
from crucible_kitchen.graph import Workflow, as_workflow, find_problems
from crucible_kitchen.graph.blocks import count_defects
from crucible_kitchen.graph.facts import facts_of
from crucible_kitchen.graph.keys import is_concurrent
from crucible_kitchen.ports import Ports, resolve

from .bridge import Bridge
from .checkpoint import Policy
from .events import Emitter, Handler
from .execute import execute, last_context
from .handlers import make_handlers
from .keepable import checkpoint_problems
from .keeping import Keeping
from .redact import Redactor
from .result import RunResult
from .runtime import Runtime
from .telemetry import attached


class Job:
    """One run: made, run once, cancelled from another thread at most."""

    def __init__(
        self,
        workflow: object,
        config: object,
        adapters: Mapping[str, Any] | Ports | None,
        handlers: Iterable[str | Handler],
        run_dir: str | os.PathLike[str] | None,
        metadata: Mapping[str, Any] | None,
        seed: int | None,
        on_context: Callable[[Context], object] | None,
        bridge: Bridge,
    ) -> None:
        self.workflow: Workflow = as_workflow(workflow)
        self.config = {} if config is None else config
        self.adapters = {} if adapters is None else adapters
        self.handlers = handlers
        self.run_dir = None if run_dir is None else Path(run_dir)
        self.metadata = dict(metadata or {})
        self.seed = seed
        self.on_context = on_context
        self.bridge = bridge
        self._width: int | None = None
        self._check_inputs = False
        self._runtime: Runtime | None = None
        self._cancelled = False
        self._keeping: Keeping | None = None

    def keep(self, checkpoint: str | Policy | None, resume: bool, allow_changed: bool) -> None:
        """Have the run keep a journal, or go on from one."""
        self._keeping = Keeping.wanted(self.run_dir, checkpoint, resume, allow_changed)

    def limit(self, max_concurrency: int | None, check_inputs: bool) -> None:
        """Bound what runs at once, and say whether stages are watched."""
        wrong = count_defects("max_concurrency", max_concurrency, 1)
        if wrong:
            raise ValueError(f"run: {wrong[0].message}")
        self._width, self._check_inputs = max_concurrency, check_inputs

    def cancel(self) -> None:
        """End the run at the next stage, and the async stage that is running now."""
        self._cancelled = True
        if self._runtime is not None:
            self._runtime.cancel(True)

    def run(self) -> RunResult:
        keeping = self._keeping
        more = () if keeping is None else checkpoint_problems(self.workflow, self.adapters)
        problems = [*find_problems(self.workflow, self.config, self.adapters), *more]
        if problems:
            raise WorkflowError(problems)
        began = time.perf_counter()
        if self.run_dir is not None:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        ports = resolve(self.adapters)
        emitter: Emitter | None = None
        failed = True
        try:
            base, seed = self._base(ports)
            if keeping is not None:
                base = keeping.open(self.workflow, base, seed, ports)
                if keeping.finished:
                    failed = False
                    if self.on_context is not None:
                        self.on_context(base)
                    return RunResult(base, base.metrics, 0.0, self.run_dir)
            emitter = Emitter([*make_handlers(self.handlers, self.run_dir), *attached()])
            runtime = self._prepare(base, seed, ports, emitter if emitter.handlers else None)
            self._runtime = runtime
            runtime.cancelled, runtime.checked = self._cancelled, self._check_inputs
            for handler in emitter.handlers:
                if hasattr(handler, "watch"):
                    handler.watch(runtime, self.workflow)
            if keeping is not None:
                keeping.follow(runtime, emitter.handlers)
            execute(self.workflow, runtime, began)
            failed = False
        finally:
            if self._runtime is not None and self.on_context is not None:
                self.on_context(last_context(self._runtime))
            self.bridge.close()
            if self._runtime is not None and self._runtime.locks.workers is not None:
                self._runtime.locks.workers.close()
            if emitter is not None:
                emitter.close()
            _close_owned(ports, self.adapters, failed)
            if keeping is not None:
                keeping.close()
        context = last_context(runtime)
        return RunResult(context, context.metrics, time.perf_counter() - began, self.run_dir)

    def _base(self, ports: Ports) -> tuple[Context, int]:
        metadata = {
            "workflow": self.workflow.name,
            "run_dir": None if self.run_dir is None else str(self.run_dir),
            **self.metadata,
        }
        base = Context(self.config, self.adapters, metadata=metadata, ports=ports)
        seed = base.get_config("seed", 0) if self.seed is None else self.seed
        return base, int(seed or 0)

    def _prepare(self, base: Context, seed: int, ports: Ports, emitter: Emitter | None) -> Runtime:
        redact = Redactor(dict(base.config), dict(base.adapters))
        emit = None if emitter is None else emitter.emit
        if emitter is not None and is_concurrent(self.workflow):
            emit = emitter.one_at_a_time
        facts = facts_of(self.workflow)
        runtime = Runtime(base, ports, emit, seed, self.bridge, redact, facts, self._width)
        if emitter is not None:
            # What overlaps runs on forks while the run itself waits, and so tells nothing.
            runtime.locks.emit = emitter.one_at_a_time
        return runtime


def _close_owned(ports: Ports, given: Mapping[str, Any] | Ports, failed: bool) -> None:
    """Close the adapters that were made for this run, last first.

    Raises:
        CrucibleError: one could not be closed, unless the run has failed before.
    """
    if isinstance(given, Ports):
        return
    problem: CrucibleError | OSError | None = None
    for name in reversed(list(ports)):
        adapter = ports[name]
        if adapter is given[name]:
            continue
        try:
            adapter.close()
        except (CrucibleError, OSError) as error:
            problem = problem or error
    if problem is None:
        return
    if failed:
        warnings.warn(f"an adapter could not be closed: {problem}", RuntimeWarning, stacklevel=2)
    else:
        raise problem
