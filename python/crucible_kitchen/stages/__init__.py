"""Stages that come with the package, each of one file; their signatures say what they need."""

from . import schedules
from .assemble import assemble
from .assemble_pairs import assemble_pairs
from .check_stop import check_stop
from .choose_probes import choose_probes
from .close_session import close_session
from .dpo_forward_backward import dpo_forward_backward
from .evaluate import evaluate
from .evaluate_pairs import evaluate_pairs
from .forward_backward import forward_backward
from .init_session import init_session
from .load_data import load_data
from .load_pairs import load_pairs
from .load_tokenizer import load_tokenizer
from .next_window import next_window
from .optim_step import optim_step
from .order_batches import order_batches
from .prepare import prepare
from .prepare_pairs import prepare_pairs
from .preview_pairs import preview_pairs
from .preview_rows import preview_rows
from .record_preferences import record_preferences
from .reference_logprobs import reference_logprobs
from .resolve_model import resolve_model
from .resolve_reference import resolve_reference
from .restore_best import restore_best
from .sample import sample
from .save_adapter import save_adapter
from .save_checkpoint import save_checkpoint
from .save_samples import save_samples
from .track_best import track_best

__all__ = [
    "assemble",
    "assemble_pairs",
    "check_stop",
    "choose_probes",
    "close_session",
    "dpo_forward_backward",
    "evaluate",
    "evaluate_pairs",
    "forward_backward",
    "init_session",
    "load_data",
    "load_pairs",
    "load_tokenizer",
    "next_window",
    "optim_step",
    "order_batches",
    "prepare",
    "prepare_pairs",
    "preview_pairs",
    "preview_rows",
    "record_preferences",
    "reference_logprobs",
    "resolve_model",
    "resolve_reference",
    "restore_best",
    "sample",
    "save_adapter",
    "save_checkpoint",
    "save_samples",
    "schedules",
    "track_best",
]
