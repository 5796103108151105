"""``crucible preview``: rows as the model reads them, with what is trained, and statistics."""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from crucible_kitchen import bootstrap
from crucible_kitchen.data import Preview, Seen
from crucible_kitchen.errors import ConfigError

from ._arguments import add_target, read_adapters, read_config

HELP = "show rows with what is trained of them, and refuse bad ones"
# Style of a piece that is trained, and of one that is not.
_TRAINED = {True: "bold green", False: ""}
# Lines of the histogram, and columns of its longest bar.
_RANGES, _BAR = 8, 40


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    add_target(parser)
    parser.add_argument("--rows", type=int, default=3, help="how many rows to show")
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour what is trained; without, it stands in [[ ]]",
    )


def main(arguments: argparse.Namespace) -> int:
    """Print it."""
    if arguments.rows < 0:
        raise ConfigError(f"preview: --rows must be at least 0, got {arguments.rows}")
    config = read_config(arguments.config)
    adapters = read_adapters(arguments.target, arguments.adapters, arguments.adapter)
    preview = bootstrap.preview(arguments.target, config, adapters)
    coloured = {"always": True, "never": False}.get(arguments.color, _can_colour())
    console = Console(
        force_terminal=coloured,
        color_system="standard" if coloured else None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    if arguments.rows:
        console.print(f"What is trained {'is green' if coloured else 'stands in [[ ]]'}.\n")
    for row in preview.rows[: arguments.rows]:
        for text in shown(row, preview, coloured):
            console.print(text, overflow="fold")
        console.print()
    for line in summary(preview):
        console.print(line)
    return 0


def _can_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def shown(row: Seen, preview: Preview, coloured: bool) -> Iterator[Text]:
    """A row: what it is, and its sequences."""
    cut = ", cut" if row.cut else ""
    yield Text(f"row {row.place}: {row.tokens:,} tokens, {row.trained:,} trained{cut}", "bold")
    for name, datum in row.parts.items():
        if name:
            yield Text(f"{name}:")
        text = Text()
        for piece in preview.pieces(datum):
            marked = piece.trained and not coloured
            text.append(f"[[{piece.text}]]" if marked else piece.text, _TRAINED[piece.trained])
        yield text


def summary(preview: Preview) -> Iterator[str]:
    """What became of all rows, in lines of at most 80 columns."""
    sequences = [datum for row in preview.rows for datum in row.parts.values()]
    lengths = sorted(1 + datum.model_input.length for datum in sequences)
    tokens, trained = sum(lengths), sum(row.trained for row in preview.rows)
    out = sum(preview.left.values())
    whole = len(preview.rows) + out
    yield f"rows       {whole:,} to train, {preview.held_out:,} held out"
    if not out:
        yield "left out   0"
    for why, count in preview.left.items():
        yield f"left out   {count:,} ({count / whole:.1%}): {why}"
    cut = sum(row.cut for row in preview.rows)
    yield f"cut        {cut:,} to max_length = {preview.max_length}"
    if not lengths:
        return
    yield f"tokens     {tokens:,}, of which {trained:,} are trained ({trained / tokens:.1%})"
    middle = statistics.median_low(lengths)
    many = f" of {len(lengths):,} sequences" if len(lengths) > len(preview.rows) else ""
    yield f"lengths    {lengths[0]:,} to {lengths[-1]:,}, half of them up to {middle:,}{many}"
    yield from _histogram(lengths)


def _histogram(lengths: Sequence[int]) -> Iterator[str]:
    """How many sequences there are of each length, in equal ranges."""
    width = -(-(lengths[-1] - lengths[0] + 1) // _RANGES)
    counts = [0] * _RANGES
    for length in lengths:
        counts[(length - lengths[0]) // width] += 1
    for place, count in enumerate(counts):
        first = lengths[0] + place * width
        if first > lengths[-1]:
            break
        bar = "#" * -(-_BAR * count // max(counts))
        yield f"{first:>8,} - {first + width - 1:>7,}  {bar:<{_BAR}}  {count:,}"
