"""Values that cross a port's border: immutable, checked, and made from plain dicts and lists."""

from .conversion import DTYPES, dtype_name
from .datum import IGNORE_INDEX, TOKEN_INPUTS, Datum
from .message import ROLES, Message, ToolCall
from .model_input import EncodedTextChunk, ImageChunk, ModelInput
from .params import AdamParams, SamplingParams
from .record import Record
from .results import (
    Completion,
    CompletionChunk,
    FinishReason,
    ForwardBackwardResult,
    MetricPoint,
    OptimStepResult,
    RegisteredModel,
    SampledSequence,
    SampledToken,
    StopReason,
    Usage,
)
from .tensor import TensorData

__all__ = [
    "DTYPES",
    "IGNORE_INDEX",
    "ROLES",
    "TOKEN_INPUTS",
    "AdamParams",
    "Completion",
    "CompletionChunk",
    "Datum",
    "EncodedTextChunk",
    "FinishReason",
    "ForwardBackwardResult",
    "ImageChunk",
    "Message",
    "MetricPoint",
    "ModelInput",
    "OptimStepResult",
    "Record",
    "RegisteredModel",
    "SampledSequence",
    "SampledToken",
    "SamplingParams",
    "StopReason",
    "TensorData",
    "ToolCall",
    "Usage",
    "dtype_name",
]
