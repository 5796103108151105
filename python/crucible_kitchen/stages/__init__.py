"""Stages that come with the package, each of one file; their signatures say what they need."""

from . import schedules
from .assemble import assemble
from .assemble_pairs import assemble_pairs
from .assume_reference import assume_reference
from .check_stop import check_stop
from .choose_probes import choose_probes
from .close_session import close_session
from .compare_forward_backward import compare_forward_backward
from .dpo_forward_backward import dpo_forward_backward
from .evaluate import evaluate
from .evaluate_pairs import evaluate_pairs
from .evaluate_scores import evaluate_scores
from .forward_backward import forward_backward
from .init_session import init_session
from .load_data import load_data
from .load_tokenizer import load_tokenizer
from .next_window import next_window
from .optim_step import optim_step
from .order_batches import order_batches
from .prepare import prepare
from .prepare_held_out import prepare_held_out
from .prepare_held_out_pairs import prepare_held_out_pairs
from .prepare_pairs import prepare_pairs
from .preview_pairs import preview_pairs
from .preview_rows import preview_rows
from .record_preferences import record_preferences
from .record_scores import record_scores
from .reference_logprobs import reference_logprobs
from .register_model import register_model
from .resolve_model import resolve_model
from .resolve_reference import resolve_reference
from .restore_best import restore_best
from .reward_forward_backward import reward_forward_backward
from .sample import sample
from .save_adapter import save_adapter
from .save_checkpoint import save_checkpoint
from .save_samples import save_samples
from .save_scored_samples import save_scored_samples
from .score_samples import score_samples
from .track_best import track_best

__all__ = [
    "assemble",
    "assemble_pairs",
    "assume_reference",
    "check_stop",
    "choose_probes",
    "close_session",
    "compare_forward_backward",
    "dpo_forward_backward",
    "evaluate",
    "evaluate_pairs",
    "evaluate_scores",
    "forward_backward",
    "init_session",
    "load_data",
    "load_tokenizer",
    "next_window",
    "optim_step",
    "order_batches",
    "prepare",
    "prepare_held_out",
    "prepare_held_out_pairs",
    "prepare_pairs",
    "preview_pairs",
    "preview_rows",
    "record_preferences",
    "record_scores",
    "reference_logprobs",
    "register_model",
    "resolve_model",
    "resolve_reference",
    "restore_best",
    "reward_forward_backward",
    "sample",
    "save_adapter",
    "save_checkpoint",
    "save_samples",
    "save_scored_samples",
    "schedules",
    "score_samples",
    "track_best",
]
