"""`Journal`: the file that says where a run stands, one line a checkpoint.

The first line says what runs. Each other line holds the commits of one checkpoint, which count
together or not at all; a last line torn by a crash never counted. A commit belongs to a strand: the
run itself, or a member of a `parallel`, a copy of a `fan_out`, the inside of a `scope`. It says
after which stage the strand stands, and what has changed since its commit before.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crucible_kitchen.errors import ConfigError, CrucibleError

from .vault import Coded

FOLDER, FILE = "journal", "journal.jsonl"
_FORMAT = 1


def _encoder() -> Callable[[Any], str]:
    """`JSONEncoder.encode`, which makes its encoder in C anew for each text, but made once."""
    plain = json.JSONEncoder(separators=(",", ":"), check_circular=False)
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        return plain.encode
    quote = json.encoder.encode_basestring_ascii
    chunks = make(None, plain.default, quote, None, ":", ",", False, False, True)
    return lambda value: "".join(chunks(value, 0))


_encode = _encoder()


def group_name(first: str, last: str) -> str:
    """What neighbours that overlap are called, which have no block; no node has such a name."""
    return f"{first}..{last}"


def body_of(at: str) -> str:
    """The id under which the strands inside `at` tell metrics: of a block, or of a group's body."""
    return at.rpartition("/")[0] if ".." in at.rpartition("/")[2] else at


@dataclass
class Saved:
    """What a journal says of one strand.

    Args:
        number: of the strand; the run itself is 0.
        path: that the ids inside it begin with; empty for the run itself.
        at: id of what it has done last; empty where nothing is certain.
        inside: whether it stands inside the block `at`, whose strands are `children`.
        events: how many events had been told then.
        state: what it has written.
        metadata: of its context, where a stage has changed it.
        records: metrics, as lists in the order of the fields of `MetricRecord`.
        loops: what the loops around `at` go through, by their id.
        children: strands begun inside `at`, by their path.
    """

    number: int = 0
    path: str = ""
    at: str = ""
    inside: bool = False
    events: int = 0
    state: dict[str, Coded] = field(default_factory=dict)
    metadata: Coded = None
    records: list[list[Any]] = field(default_factory=list)
    loops: dict[str, dict[str, Any]] = field(default_factory=dict)
    children: dict[str, Saved] = field(default_factory=dict)

    def apply(self, commit: Mapping[str, Any]) -> None:
        """Take over what a commit says."""
        if "made" in commit:  # for an `async_loop`, while the rest goes on
            for where, made in commit["made"].items():
                self.loops[where]["made"].update(made)
            return
        self.at, self.inside, self.events = commit["at"], "in" in commit, commit["events"]
        if self.children:
            self.children = {}
        if "set" in commit:
            self.state.update(commit["set"])
        if "metadata" in commit:
            self.metadata = commit["metadata"]
        if "metrics" in commit:
            self.records += commit["metrics"]
        if "loops" in commit:
            for where, loop in commit["loops"].items():
                before = self.loops.get(where, {})
                self.loops[where] = {**before, **loop}
                if "made" in loop:
                    self.loops[where]["made"] = {**before.get("made", {}), **loop["made"]}
        here = f"{self.at}["
        for where in self.loops:
            if not here.startswith(where + "["):
                self.loops = {k: v for k, v in self.loops.items() if here.startswith(k + "[")}
                break
        for where, loop in self.loops.items():
            if "made" in loop:
                made, index = loop["made"], self.index_in(where)
                for number in [one for one in made if int(one) < index]:
                    del made[number]

    def made(self) -> Iterator[tuple[str, dict[str, list[Any]]]]:
        """For each `async_loop` around `at` its items by their numbers, from the one in use on."""
        for where, loop in self.loops.items():
            if "made" in loop:
                yield where, loop["made"]

    def index_in(self, where: str) -> int:
        """Number of the iteration that it is in, of a loop around `at`."""
        return int(self.at[len(where) + 1 :].partition("]")[0])

    def values(self) -> Iterator[Coded]:
        """Every encoded value of the strand and of those inside it."""
        yield from self.state.values()
        yield self.metadata
        for loop in self.loops.values():
            yield loop.get("over")
            yield loop.get("item")
            yield loop.get("state")
            yield from loop.get("reads", {}).values()
            yield from (item for item, _ in loop.get("made", {}).values())
        for child in self.children.values():
            yield from child.values()

    def all(self) -> Iterator[Saved]:
        """The strand and those inside it."""
        yield self
        for child in self.children.values():
            yield from child.all()


@dataclass
class Story:
    """A journal, read.

    Args:
        about: what runs, from the first line.
        main: the strand of the run itself.
        handles: what adapters have saved, by number.
        finished: what a finished run left: its small values; None where it has not finished.
        length: bytes up to the last whole line.
    """

    about: dict[str, Any]
    main: Saved
    handles: dict[str, Any]
    finished: dict[str, Coded] | None = None
    length: int = 0

    def __post_init__(self) -> None:
        self.strands: dict[int, Saved] = {0: self.main}

    def apply(self, line: Mapping[str, Any]) -> None:
        """Take over what a line says."""
        if "handles" in line:
            self.handles.update(line["handles"])
        for commit in line.get("commits", ()):
            number = commit["strand"]
            strand = self.strands.get(number)
            if strand is None:
                strand = self.strands[number] = Saved(number, commit["path"])
            strand.apply(commit)
            if "of" in commit:
                self.strands[commit["of"]].children[commit["path"]] = strand
        if "finished" in line:
            self.finished = line["finished"]
            self.main.children = {}
            self.main.records += line["metrics"]


class Journal:
    """Appends lines to a run's journal, which it holds alone.

    Args:
        run_dir: the run's folder.
        length: where the next line begins; what stands behind is cut off.
    Raises:
        ConfigError: another process is at work on the run.
    """

    def __init__(self, run_dir: Path, length: int = 0) -> None:
        self.path = run_dir / FOLDER / FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"resume: another process is running {run_dir}") from error
        os.ftruncate(self._descriptor, length)
        self._length = length

    def begin(self, about: Mapping[str, Any], *, fsync: bool) -> None:
        """Write the first line."""
        self.append({"crucible_journal": _FORMAT, **about}, fsync=fsync)

    def append(self, line: Mapping[str, Any], *, fsync: bool = False) -> None:
        """Write a line, whole or not at all.

        Raises:
            CrucibleError: it could not be written.
        """
        data = _encode(line).encode() + b"\n"
        try:
            written = os.write(self._descriptor, data)
            while written < len(data):
                written += os.write(self._descriptor, data[written:])
            if fsync:
                os.fsync(self._descriptor)
        except OSError as error:
            os.ftruncate(self._descriptor, self._length)
            said = error.strerror or error
            raise CrucibleError(f"journal: could not write {self.path}: {said}") from error
        self._length += len(data)

    def close(self) -> None:
        """Close the file; another process may go on."""
        os.close(self._descriptor)


def has_journal(run_dir: Path) -> bool:
    """Whether a run has begun a journal."""
    path = run_dir / FOLDER / FILE
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def read_journal(run_dir: Path) -> Story:
    """What a run's journal says.

    Raises:
        ConfigError: the folder has none.
        CrucibleError: it is damaged, or of another release.
    """
    path = run_dir / FOLDER / FILE
    if not path.is_file():
        raise ConfigError(
            f"resume: {run_dir} has no journal; a run keeps one where checkpoint= says when, such "
            'as checkpoint="stage"'
        )
    lines = path.read_bytes().split(b"\n")
    if len(lines) == 1:
        raise ConfigError(f"resume: the journal of {run_dir} is empty; start the run again")
    about = _line(lines[0], 1, path)
    if about.pop("crucible_journal", None) != _FORMAT:
        raise CrucibleError(f"journal: {path} must have format {_FORMAT}, got another")
    story = Story(about, Saved(), {})
    _apply(story, lines[1:-1], path)
    # What follows the last line feed is empty, or was torn by a crash.
    story.length = sum(len(line) + 1 for line in lines[:-1])
    return story


def _apply(story: Story, lines: Sequence[bytes], path: Path) -> None:
    for number, text in enumerate(lines, 2):
        line = _line(text, number, path)
        try:
            story.apply(line)
        except (KeyError, TypeError, AttributeError) as error:
            raise CrucibleError(f"journal: {path}, line {number} is damaged: {error!r}") from error


def _line(text: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise CrucibleError(f"journal: {path}, line {number} is damaged: {error}") from error
    if not isinstance(line, dict):
        raise CrucibleError(f"journal: {path}, line {number} is damaged: it is no object")
    return line
