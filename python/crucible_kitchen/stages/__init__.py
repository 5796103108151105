"""Stages that come with the package, each of one file; their signatures say what they need."""

from . import schedules
from .assemble import assemble
from .close_session import close_session
from .evaluate import evaluate
from .forward_backward import forward_backward
from .init_session import init_session
from .load_data import load_data
from .optim_step import optim_step
from .order_batches import order_batches
from .prepare import prepare
from .resolve_model import resolve_model
from .sample import sample
from .save_adapter import save_adapter
from .save_checkpoint import save_checkpoint
from .save_samples import save_samples

__all__ = [
    "assemble",
    "close_session",
    "evaluate",
    "forward_backward",
    "init_session",
    "load_data",
    "optim_step",
    "order_batches",
    "prepare",
    "resolve_model",
    "sample",
    "save_adapter",
    "save_checkpoint",
    "save_samples",
    "schedules",
]
