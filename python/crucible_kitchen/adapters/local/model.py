"""A causal language model as a trainer needs it: log-probabilities of chosen tokens, no logits."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging as transformers_logging

from crucible_kitchen import ops
from crucible_kitchen.adapters.local import (
    attention,
    decoder,
    linears,
    rotary,
    sharding,
    trained_head,
)
from crucible_kitchen.adapters.local.device import resolve_device, resolve_dtype
from crucible_kitchen.adapters.local.packed import Packed, groups
from crucible_kitchen.errors import ConfigError, PortError
from crucible_kitchen.nn import LoraLinear, fuse, load_lora, scalar_head
from crucible_kitchen.nn.last_layer import takes_read

# How far the packed computation may be from the model's own, relative to the logits' norm.
# float32 leaves the rounding of some hundred operations; bfloat16 has 8 bits for each.
_AGREEMENT = {torch.float32: 1e-3, torch.bfloat16: 1e-1}


class CausalModel:
    """A transformers causal LM that computes several sequences at once without padding.

    Args:
        model: any causal LM whose attention goes through transformers' attention interface and
            whose logits are ``hidden @ head.weight.T``; `load` checks both on a few tokens.

    Attributes:
        end_tokens: ids that end a sequence, by the model's own settings.
        base: the model whose weights these are, for a `twin`.
        is_sharded: whether each of several processes holds a part of the frozen weights.
        is_checkpointed: whether a backward pass computes whole layers again.
    """

    base: CausalModel | None = None
    is_sharded = False
    is_checkpointed = False

    def __init__(self, model: Any) -> None:
        self.model = model
        end = model.generation_config.eos_token_id
        self.end_tokens = frozenset([end] if isinstance(end, int) else end or ())
        # What a model's authors like to sample with must not leak into what the caller asks for.
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], *, dtype: str = "auto", device: str = "auto"
    ) -> CausalModel:
        """Read a folder of config, tokenizer and safetensors.

        Args:
            dtype: ``float32``, ``bfloat16``, or ``auto``, see `resolve_dtype`.
            device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there is one.

        Raises:
            PortError: the folder cannot be read, or the model computes something else (see above).
        """
        where = resolve_device(device)
        attention.register()
        try:
            with quiet():
                model: Any = AutoModelForCausalLM.from_pretrained(
                    os.fspath(folder),
                    dtype=resolve_dtype(dtype, where, folder),
                    attn_implementation="eager",
                    local_files_only=True,
                )
        # ImportError: of a library that a quantised model asks for.
        except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
            raise PortError(f"local model: could not load model {folder}: {error}") from error
        _refuse_quantised(model, folder)
        for module in model.modules():
            # The base is frozen; only the LoRA branch drops anything, reproducibly.
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        loaded = cls(model.to(where).eval().requires_grad_(False))
        loaded._use_our_own()
        return loaded

    def twin(self) -> CausalModel:
        """The same model with modules of its own, to put an update on.

        Weights, and what kernels have packed of them, are those of this one; nobody changes them.
        """
        shared = {id(t): t for t in (*self.model.parameters(), *self.model.buffers())}
        twin = copy.copy(self)
        twin.model = copy.deepcopy(self.model, shared)
        twin.base = self
        return twin

    def shard(self, trained: Iterable[nn.Parameter], device: torch.device) -> None:
        """Keep a part of the frozen weights in each process, on a device; see `sharding.shard`."""
        sharding.shard(self.model, tuple(trained), device)
        self.base, self.is_sharded = None, True

    def whole(self) -> AbstractContextManager[None]:
        """Around every pass, and its backward; see `sharding.whole`."""
        return sharding.whole(self.model) if self.is_sharded else nullcontext()

    def idle(self) -> Tensor:
        """Hidden states [1, H] that nobody reads: other processes wait for this one's weights."""
        return self.hidden(Packed.of([[0]], self.device))

    @property
    def head(self) -> nn.Linear | LoraLinear:
        """From hidden states to logits."""
        return self.model.get_output_embeddings()  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dtype(self) -> str:
        """Of the weights, ``float32`` or ``bfloat16``."""
        return str(self.head.weight.dtype).removeprefix("torch.")

    @property
    def vocabulary(self) -> int:
        """How many token ids the model takes."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def hidden(self, packed: Packed, rows: Tensor | None = None) -> Tensor:
        """Last hidden states [T, H] of packed sequences; `packed.places` says whose they are.

        Args:
            rows: int64 [n], the positions to give, as often as they are asked for: [n, H]. The
                last layer's queries and MLP are computed there alone, where its kind is known.
        """
        read = None
        if rows is not None and takes_read(self.model.base_model):
            distinct, rows = rows.unique(return_inverse=True)  # type: ignore[no-untyped-call]
            read = distinct if len(distinct) < len(packed.tokens) else None
        # Who makes outputs again by himself keeps fewer.
        again = self.is_checkpointed or decoder.runs(self.model)
        with nullcontext() if again else ops.recomputing():
            output = self.model.base_model(
                input_ids=packed.tokens[None],
                position_ids=packed.positions[None],
                use_cache=False,
                segments=packed.lengths,
                parents=packed.parents,
                **({} if read is None else {"read": read}),
            )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden if rows is None else hidden.index_select(0, rows)

    def logprobs(self, packed: Packed, rows: Tensor, targets: Tensor) -> Tensor:
        """Log-probabilities, in nats, of one target token at each chosen position.

        Args:
            rows: int64 [n], positions among the packed tokens, as often as they are asked for.
            targets: int64 [n], the token that should come next there.

        Returns:
            float32 [n], differentiable.
        """
        return self.logprobs_of(self.chosen(packed, rows), targets)

    def chosen(self, packed: Packed, rows: Tensor) -> Tensor:
        """Last hidden states [n, H] at chosen positions."""
        # The head has the most columns of all; only the rows that matter go through it.
        everything = len(rows) == len(packed.tokens) and len(packed.places) == len(packed.lengths)
        return self.hidden(packed, None if everything else rows)

    def logprobs_of(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Those of `logprobs`, float32 [n], given the hidden states [n, H] before each target."""
        head = self.head
        if isinstance(head, LoraLinear):
            return trained_head.logprobs(head, hidden, targets)
        return ops.linear_logprobs(hidden, head.weight, targets)

    def scores(self, packed: Packed) -> Tensor:
        """The scalar head's score of each sequence, at its last token; the model must have one.

        Returns:
            float32 [n], differentiable.
        """
        head = scalar_head(self.model)
        assert head is not None
        ends = torch.tensor([int(place[-1]) for place in packed.places], device=self.device)
        scores: Tensor = head(self.hidden(packed, ends))
        return scores

    def train(self, mode: bool = True) -> None:
        """torch's `train`, without its walk over all modules (5 ms) where nothing changes."""
        if self.model.training != mode:
            self.model.train(mode)

    @torch.no_grad()
    def score(self, sequences: Sequence[Sequence[int]], *, tokens_per_pass: int) -> list[float]:
        """`scores` without gradients and without dropout, some sequences at a time."""
        self.model.eval()
        scores: list[float] = []
        for group in groups(sequences, [len(s) for s in sequences], tokens_per_pass):
            scores += self.scores(Packed.of(group, self.device)).tolist()
        return scores

    def load_adapter(self, path: str | os.PathLike[str]) -> None:
        """Put an adapter on the model, or copy it over the one that is there.

        Raises:
            PortError: there is none at `path`, or it does not fit.
        """
        try:
            load_lora(self.model, path)
            linears.fuse(self.model)
        except ConfigError as error:
            raise PortError(f"local model: {os.fspath(path)} does not fit: {error}") from error

    def checkpoint_gradients(self) -> None:
        """Keep only each layer's input, and compute the layer again in the backward pass."""
        # transformers 5 renamed it on the way.
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.is_checkpointed = True

    @torch.no_grad()
    def _use_our_own(self) -> None:
        """Switch to packed attention and fused parts; a few tokens show that nothing changed."""
        if self.head.bias is not None:
            raise PortError("local model: the model's head must have no bias, but it has one")
        sequences = [[1, 2, 3], [1, 2, 5, 4], [4, 3, 2, 1, 5], [2]]
        sequences = [[token % self.vocabulary for token in sequence] for sequence in sequences]
        tokens = [torch.tensor([sequence], device=self.device) for sequence in sequences]
        wanted = torch.cat([self.model(input_ids=t, use_cache=False).logits[0] for t in tokens])
        self.model.set_attn_implementation(attention.NAME)
        linears.fuse(self.model)
        fuse(self.model)
        rotary.fuse(self.model)
        decoder.fuse(self.model)
        packed = Packed.of(sequences, self.device, share_at_least=2)
        places = torch.from_numpy(np.concatenate(packed.places)).to(self.device)
        got = functional.linear(self.hidden(packed, places), self.head.weight)
        error = float((got.float() - wanted.float()).norm() / wanted.float().norm())
        if not error <= _AGREEMENT[self.head.weight.dtype]:
            kind = type(self.model).__name__
            raise PortError(
                f"local model: {kind} is not supported: with sequences laid end to end and "
                f"logits as hidden states times the head's weight, they differ by {error:.1e} "
                "of their norm. Models that scale or cap their logits, or mix tokens outside of "
                "attention, are of this kind"
            )


def _refuse_quantised(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    for name, weight in model.named_parameters():
        if weight.dtype not in _AGREEMENT:
            raise PortError(
                f"local model: weights must be float32 or bfloat16, got {name} in {weight.dtype} "
                f"from {folder}: it is quantised; give the model in full, or as a GGUF file, which "
                "is converted"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bar of transformers; loading a model is one of our own steps."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
