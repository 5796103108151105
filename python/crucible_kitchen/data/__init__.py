"""One path for all recipes: rows -> messages -> tokens with weights -> datums -> batches.

Neither torch nor transformers is imported here: a tokenizer is whatever has the methods of
`crucible_kitchen.ports.Tokenizer`.
"""

from .batches import BatchOrder, normalise_weights
from .cache import cache_dir, cached_folder
from .columns import Place
from .comparator import Comparison, comparison, transcript
from .datums import Prepared, Statistics, build_datums, prepare, prepare_row
from .formats import Conversation, PlainText, parse_row, to_messages
from .mixture import MixturePart, mix
from .packing import best_fit
from .pairs import (
    Pair,
    PairForm,
    PreparedPairs,
    desensitised,
    prepare_pair,
    prepare_pairs,
    scored_tokens,
)
from .preferences import Judgement, Preference, parse_judgement, parse_preference
from .preview import Left, Preview, Seen, look
from .render import Rendered, render
from .row_values import RowValues, row_hash
from .spans import TRAIN_ON
from .steps import ORDERS, StepOrder, micro_batches, size_of
from .truncate import TRUNCATIONS
from .unpaired import pair_up

__all__ = [
    "ORDERS",
    "TRAIN_ON",
    "TRUNCATIONS",
    "BatchOrder",
    "Comparison",
    "Conversation",
    "Judgement",
    "Left",
    "MixturePart",
    "Pair",
    "PairForm",
    "Place",
    "PlainText",
    "Preference",
    "Prepared",
    "PreparedPairs",
    "Preview",
    "Rendered",
    "RowValues",
    "Seen",
    "Statistics",
    "StepOrder",
    "best_fit",
    "build_datums",
    "cache_dir",
    "cached_folder",
    "comparison",
    "desensitised",
    "look",
    "micro_batches",
    "mix",
    "normalise_weights",
    "pair_up",
    "parse_judgement",
    "parse_preference",
    "parse_row",
    "prepare",
    "prepare_pair",
    "prepare_pairs",
    "prepare_row",
    "render",
    "row_hash",
    "scored_tokens",
    "size_of",
    "to_messages",
    "transcript",
]
