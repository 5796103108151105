"""One path for all recipes: rows -> messages -> tokens with weights -> datums -> batches.

Neither torch nor transformers is imported here: a tokenizer is whatever has the methods of
`crucible_kitchen.ports.Tokenizer`.
"""

from .batches import BatchOrder, normalise_weights
from .cache import cache_dir, cached_folder
from .datums import Prepared, Statistics, build_datums, prepare
from .formats import Conversation, PlainText, parse_row, to_messages
from .render import Rendered, render
from .spans import TRAIN_ON
from .truncate import TRUNCATIONS

__all__ = [
    "TRAIN_ON",
    "TRUNCATIONS",
    "BatchOrder",
    "Conversation",
    "PlainText",
    "Prepared",
    "Rendered",
    "Statistics",
    "build_datums",
    "cache_dir",
    "cached_folder",
    "normalise_weights",
    "parse_row",
    "prepare",
    "render",
    "to_messages",
]
