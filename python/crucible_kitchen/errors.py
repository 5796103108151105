"""Every error this package raises on purpose, all of them `CrucibleError`.

An error names what was wanted, what came, and what to do. A bad argument of a plain function is a
`ValueError` or `TypeError` in the form ``op: argument must be WANTED, got GOT``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches


class CrucibleError(Exception):
    """Base of all errors of this package."""


class ConfigError(CrucibleError):
    """A configuration value or key is wrong; nothing has run yet."""


class DataError(CrucibleError):
    """A row of a data set cannot be used; the message names the row."""


class PortError(CrucibleError):
    """An adapter could not do what its port promises; the message names the port."""


class KernelError(CrucibleError):
    """No kernel takes these arguments, or a kernel failed; the message names the op."""


@dataclass(frozen=True)
class Problem:
    """One finding of the validation of a workflow.

    Args:
        code: short stable name of the rule, such as ``unknown-key``.
        path: where in the workflow, such as ``sft/epochs/optim_step``.
        message: what is wrong, in one sentence.
        source: ``file:line`` of the declaration, empty where unknown.
        help: what to do about it, empty where nothing can be suggested.
    """

    code: str
    path: str
    message: str
    source: str = ""
    help: str = ""

    def __str__(self) -> str:
        where = f" ({self.source})" if self.source else ""
        advice = f"\n    help: {self.help}" if self.help else ""
        return f"[{self.code}] {self.path}{where}: {self.message}{advice}"


class WorkflowError(CrucibleError):
    """A workflow cannot run; `problems` lists everything that is wrong with it, at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: Sequence[Problem] = tuple(problems)
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        super().__init__(f"{len(self.problems)} problem(s) in the workflow:\n{lines}")


class StageError(CrucibleError):
    """A stage failed while it ran.

    Args:
        message: what went wrong.
        stage: id of the execution, such as ``sft/epochs[2]/batches[153]/optim_step``.

    The stage's own exception, with its traceback, is `__cause__`.
    """

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion such as ``did you mean 'epochs'?``, or the known names, or nothing."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known: {', '.join(names)}" if names else ""
