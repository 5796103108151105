"""What adapters give back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .message import ToolCall
from .model_input import token_ids
from .record import Record
from .tensor import TensorData

StopReason = Literal["stop", "length"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class ForwardBackwardResult(Record):
    """Loss of a batch and what the model gave every token.

    Args:
        loss: weighted mean per token, in nats.
        loss_fn_outputs: per datum, name -> `TensorData`; ``logprobs`` is float32 [T], the log
            probability of each target token.
        metrics: ``loss:sum`` is the sum over tokens of weight times loss; a name ends in how it is
            combined over parts of a batch (``:sum``, ``:mean``, ``:min``, ``:max``).
    """

    loss: float
    loss_fn_outputs: Sequence[Mapping[str, TensorData]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        outputs = tuple(
            {name: TensorData.coerce(value) for name, value in output.items()}
            for output in self.loss_fn_outputs
        )
        object.__setattr__(self, "loss", float(self.loss))
        object.__setattr__(self, "loss_fn_outputs", outputs)
        object.__setattr__(self, "metrics", {k: float(v) for k, v in self.metrics.items()})


@dataclass(frozen=True, slots=True)
class OptimStepResult(Record):
    """What an optimizer step did.

    Args:
        step: how many steps the session has taken, this one included.
        grad_norm: Euclidean norm of all gradients together, before clipping.
        learning_rate: the rate that was used.
    """

    step: int
    grad_norm: float
    learning_rate: float


@dataclass(frozen=True, slots=True)
class SampledSequence(Record):
    """One sample.

    Args:
        tokens: the drawn ids, without the prompt; the end-of-sequence token is included if drawn.
        logprobs: log probability of each drawn token under the unmodified model, in nats.
        stop_reason: ``stop`` at a stop token or string, ``length`` at `max_tokens`.
    """

    tokens: Sequence[int]
    logprobs: Sequence[float]
    stop_reason: StopReason = "stop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", token_ids(self.tokens, "SampledSequence"))
        object.__setattr__(self, "logprobs", tuple(map(float, self.logprobs)))
        if len(self.tokens) != len(self.logprobs):
            raise ValueError(
                f"SampledSequence: logprobs must have one entry per token, {len(self.tokens)}, "
                f"got {len(self.logprobs)}"
            )
        if self.stop_reason not in ("stop", "length"):
            raise ValueError(
                f"SampledSequence: stop_reason must be stop or length, got {self.stop_reason!r}"
            )


@dataclass(frozen=True, slots=True)
class SampledToken(Record):
    """One token of a sample that is still being drawn.

    Args:
        token: its id.
        logprob: its log probability under the unmodified model, in nats.
    """

    token: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Usage(Record):
    """How many tokens a completion read and wrote."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total_tokens(self) -> int:
        """Read and written together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Completion(Record):
    """A model's answer to a conversation.

    Args:
        text: the answer.
        finish_reason: why it ended.
        usage: tokens read and written.
        tool_calls: the calls the model asks for.
    """

    text: str
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    tool_calls: tuple[ToolCall, ...] = ()


@dataclass(frozen=True, slots=True)
class CompletionChunk(Record):
    """A piece of an answer that is still being written; the last piece has a `finish_reason`."""

    text: str
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class MetricPoint(Record):
    """One recorded value.

    Args:
        run_id: the run it belongs to.
        name: such as ``loss``.
        value: may be NaN or infinite.
        step: where in the run; None for a value of the whole run.
        time: seconds since 1970, None where the store keeps no time.
        metadata: anything JSON can hold.
    """

    run_id: str
    name: str
    value: float
    step: int | None = None
    time: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclass(frozen=True, slots=True)
class RegisteredModel(Record):
    """A model that a registry knows.

    Args:
        id: ``name:version``.
        name: may hold any characters.
        version: without a colon.
        artifact_uri: where its weights are.
        metadata, lineage, metrics: what the caller said about it.
        created_at: seconds since 1970, None where the registry keeps no time.
    """

    id: str
    name: str
    version: str
    artifact_uri: str
    metadata: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    created_at: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
