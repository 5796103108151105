"""What the JSON requests hold; an option that this server does not have is refused by its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from crucible_kitchen.types import AdamParams

# At most ten years, as the protocol says.
Lifetime = Annotated[int, Field(gt=0, le=10 * 366 * 86_400)]
# What a random generator starts from.
Seed = Annotated[int, Field(ge=-(2**63), lt=2**64)]
Metadata = Mapping[str, Any]
# What a program counts its requests and models by.
Number = Annotated[int, Field(ge=0, lt=2**63)]


class Body(BaseModel):
    """A request; fields that it does not declare must be absent, null, false or 0."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    type: str | None = None

    @model_validator(mode="after")
    def _knows_what_is_asked(self) -> Body:
        asked = [name for name, value in (self.__pydantic_extra__ or {}).items() if value]
        if asked:
            raise ValueError(f"this server does not support {', '.join(sorted(asked))}")
        return self


class Lora(Body):
    """The update to train; its scale is 32 / rank."""

    rank: int = Field(default=32, ge=1, le=512)
    seed: Seed | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class Optimizer(Body):
    """The kind of optimizer."""

    type: Literal["adamw"] | None = "adamw"


class CreateSession(Body):
    """A program that begins."""

    tags: list[str] = []
    user_metadata: Metadata | None = None
    sdk_version: str = ""
    display_name: str | None = None
    project_id: str | None = None


class OfSession(Body):
    """About a session."""

    session_id: str


class Reason(Body):
    """How a program ended."""

    type: Literal["success", "errored", "interrupted"] = "success"


class Finish(Body):
    """A program that ends."""

    reason: Reason = Reason()
    detail: str | None = None


class CreateModel(OfSession):
    """A model to train."""

    model_seq_id: Number
    base_model: str
    lora_config: Lora = Lora()
    user_metadata: Metadata | None = None
    optimizer_config: Optimizer | None = None


class LoadWeights(Body):
    """A model to train on from a checkpoint: a new one of a session, or one that is open."""

    session_id: str = ""
    model_seq_id: Number = 0
    model_id: str | None = None
    seq_id: Number = 0
    path: str
    optimizer: bool = False
    user_metadata: Metadata | None = None
    optimizer_config: Optimizer | None = None
    base_model: str | None = None


class OfModel(Body):
    """About a model."""

    model_id: str


class Ordered(OfModel):
    """A request that has its place in a model's order, the first of which is 1."""

    seq_id: Number = Field(ge=1)


class Place(BaseModel):
    """The place in a model's order of a request that is malformed elsewhere."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    seq_id: Number = Field(ge=1)


class Adam(Body):
    """AdamW's settings for one step."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    @model_validator(mode="after")
    def _can_be_used(self) -> Adam:
        self.params()
        return self

    def params(self) -> AdamParams:
        """As the port takes them."""
        return AdamParams(**self.model_dump(include=set(AdamParams.__dataclass_fields__)))


class OptimStep(Ordered):
    """An optimizer step."""

    adam_params: Adam = Adam()


class SaveWeights(Ordered):
    """A checkpoint to write."""

    path: str
    ttl_seconds: Lifetime | None = None
    overwrite: bool = False
    user_metadata: Metadata | None = None


class SaveForSampler(Ordered):
    """Weights to draw with; without a path they go when the server does."""

    path: str | None = None
    sampling_session_seq_id: Number | None = None
    kind: Literal["snapshot"] = "snapshot"
    ttl_seconds: Lifetime | None = None
    user_metadata: Metadata | None = None


class SaveExternal(Ordered):
    """Weights to write for others to download."""

    path: str
    ttl_seconds: Lifetime | None = None


class CreateSampling(OfSession):
    """A model to draw from."""

    sampling_session_seq_id: Number | None = None
    base_model: str | None = None
    model_path: str | None = None


class Params(Body):
    """How to draw; no `max_tokens` draws to the longest sequence."""

    max_tokens: int | None = Field(None, ge=1)
    seed: Seed | None = None
    stop: str | list[str] | list[int] | None = None
    temperature: float = Field(1.0, ge=0)
    top_k: int = -1
    top_p: float = 1.0


class Sample(Body):
    """Continuations to draw."""

    prompt: Mapping[str, Any]
    sampling_params: Params
    num_samples: int = Field(1, ge=1, le=1024)
    sampling_session_id: str | None = None
    base_model: str | None = None
    model_path: str | None = None
    seq_id: Number | None = None
    prompt_logprobs: bool | None = False
    topk_prompt_logprobs: int = Field(0, ge=0, le=1024)
    prompt_logprobs_last_n: int | None = Field(None, ge=1)


class Retrieve(Body):
    """A result to wait for."""

    request_id: str
    allow_metadata_only: bool = False


class Path(Body):
    """About a checkpoint."""

    tinker_path: str


class Copy(Body):
    """A checkpoint to copy: into a session, or into a new one of a project."""

    source_path: str
    session_id: str | None = None
    model_seq_id: Number | None = None
    destination_project_id: str | None = None
    ttl_seconds: Lifetime | None = None


class Project(Body):
    """Where a session belongs."""

    project_id: str = Field(min_length=1)


class Status(Body):
    """How sessions are that are searched for."""

    type: Literal["active", "cancelled", "failed", "client_finished"]
    reasons: list[Literal["success", "errored", "interrupted"]] | None = Field(None, min_length=1)


class Owner(Body):
    """Whose sessions are searched for: one's own and those that one sees are all of a server's."""

    type: Literal["own", "accessible", "user"] = "own"
    owner_urns: list[str] | None = None


class Cursor(Body):
    """The session after which a page of a search begins."""

    last_created_at: AwareDatetime
    last_session_id: str


class Search(Body):
    """Sessions to find; what is absent finds all."""

    session_id: str | None = None
    display_name: str | None = Field(None, min_length=1)
    project_ids: list[str] | None = None
    user_metadata: Mapping[str, str] = {}
    owner: Owner = Owner()
    statuses: list[Status] | None = Field(None, min_length=1)
    limit: int = Field(50, ge=1, le=200)
    cursor: Cursor | None = None


class Ttl(Body):
    """How long a checkpoint stays; null: for good."""

    ttl_seconds: Lifetime | None = None
