"""Drawing tokens: transformers runs the model and its cache, this file chooses every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from crucible_kitchen.adapters.local import trained_head
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed
from crucible_kitchen.ports import Tokenizer
from crucible_kitchen.types import SampledSequence, SampledToken, SamplingParams

OnToken = Callable[[SampledToken], bool]
"""Called with each token of the first sample; gives whether to go on."""


@torch.no_grad()
def sample(
    model: CausalModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    num_samples: int,
    params: SamplingParams,
    on_token: OnToken | None = None,
) -> list[SampledSequence]:
    """Draw continuations of one prompt, all at once.

    A sample ends at the end of sequence, at one of `params.stop`, or at `params.max_tokens`; the
    tokens that ended it are part of it.

    Args:
        prompt: token ids, at least one, each below the model's vocabulary.
    """
    model.model.eval()
    drawing = _Drawing(tokenizer, model.end_tokens, len(prompt), num_samples, params, on_token)
    prompts = torch.tensor([list(prompt)] * num_samples, device=model.device)
    with model.whole():
        model.model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            # The choice is made in `_Drawing`, so that it has a seed of its own: transformers only
            # takes the one token that is left.
            generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                do_sample=False, max_new_tokens=params.max_tokens, use_cache=True
            ),
            logits_processor=LogitsProcessorList([drawing]),
            stopping_criteria=StoppingCriteriaList([_Stop(drawing)]),
            # Each pass gathers weights from all processes, so the longest sample of all decides.
            synced_gpus=model.is_sharded,
        )
    return drawing.sequences()


@torch.no_grad()
def logprobs(model: CausalModel, tokens: Sequence[int]) -> list[float | None]:
    """Log probability, in nats, of each token given those before it; None for the first."""
    if len(tokens) == 1:
        return [None]
    model.model.eval()
    packed = Packed.of([tokens[:-1]], model.device)
    targets = torch.tensor(list(tokens[1:]), device=model.device)
    with model.whole():
        values = model.logprobs(packed, torch.arange(len(targets), device=model.device), targets)
    return [None, *values.tolist()]


@torch.no_grad()
def topk_logprobs(
    model: CausalModel, tokens: Sequence[int], k: int
) -> list[list[tuple[int, float]] | None]:
    """The `k` likeliest tokens in place of each token given those before it; None for the first."""
    if len(tokens) == 1:
        return [None]
    model.model.eval()
    with model.whole():
        hidden = model.hidden(Packed.of([tokens[:-1]], model.device))
        return [None, *trained_head.topk(model.head, hidden, k)]


class _Drawing(LogitsProcessor):
    """The samples so far; as a logits processor it leaves one token, the one it drew."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        end_tokens: frozenset[int],
        prompt_length: int,
        num_samples: int,
        params: SamplingParams,
        on_token: OnToken | None,
    ) -> None:
        stops = params.stop or ()
        end = set() if tokenizer.eos_token_id is None else {tokenizer.eos_token_id}
        self._end_tokens = end | end_tokens | {stop for stop in stops if isinstance(stop, int)}
        if params.stop == ():
            self._end_tokens = set()
        self._stop_texts = [stop for stop in stops if isinstance(stop, str)]
        self._tokenizer, self._params, self._on_token = tokenizer, params, on_token
        self._prompt_length = prompt_length
        self._generator: torch.Generator | None = None
        self._tokens: list[list[int]] = [[] for _ in range(num_samples)]
        self._logprobs: list[list[float]] = [[] for _ in range(num_samples)]
        self.stopped = [False] * num_samples
        self.abandoned = False

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Draw a token for each sample from its logits [num_samples, V]."""
        logits = scores.float()
        drawn = self._draw(logits)
        values = torch.log_softmax(logits, dim=-1).gather(1, drawn)
        for index, (token, value) in enumerate(
            zip(drawn[:, 0].tolist(), values[:, 0].tolist(), strict=True)
        ):
            if not self.stopped[index]:
                self._tokens[index].append(token)
                self._logprobs[index].append(value)
                self.stopped[index] = self._ends(self._tokens[index])
        if self._on_token is not None and not self.abandoned:
            self.abandoned = not self._on_token(
                SampledToken(self._tokens[0][-1], self._logprobs[0][-1])
            )
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)

    def sequences(self) -> list[SampledSequence]:
        """What was drawn."""
        return [
            SampledSequence(tuple(tokens), tuple(values), "stop" if stopped else "length")
            for tokens, values, stopped in zip(
                self._tokens, self._logprobs, self.stopped, strict=True
            )
        ]

    def _draw(self, logits: Tensor) -> Tensor:
        params = self._params
        if params.temperature == 0:
            return logits.argmax(dim=-1, keepdim=True)
        kept = logits / params.temperature
        if 0 < params.top_k < kept.shape[-1]:
            least = kept.topk(params.top_k, dim=-1).values[:, -1:]
            kept = kept.masked_fill(kept < least, -torch.inf)
        if params.top_p < 1:
            kept = _nucleus(kept, params.top_p)
        if self._generator is None:
            self._generator = torch.Generator(logits.device)
            if params.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(params.seed)
        return torch.multinomial(kept.softmax(dim=-1), 1, generator=self._generator)

    def _ends(self, tokens: Sequence[int]) -> bool:
        if tokens[-1] in self._end_tokens:
            return True
        if not self._stop_texts:
            return False
        # A stop text spans at most its own length in tokens, each at least a character or part of
        # one; a few more complete the character that the cut may have split.
        tail = tokens[-(4 * max(map(len, self._stop_texts)) + 4) :]
        text = self._tokenizer.decode(tail)
        return any(stop in text for stop in self._stop_texts)


class _Stop(StoppingCriteria):
    """Ends transformers' loop when every sample has ended."""

    def __init__(self, drawing: _Drawing) -> None:
        self._drawing = drawing

    def __call__(self, input_ids: Any, scores: Any, **options: Any) -> Any:
        done = [stopped or self._drawing.abandoned for stopped in self._drawing.stopped]
        return torch.tensor(done, device=input_ids.device)


def _nucleus(logits: Tensor, share: float) -> Tensor:
    """Keep the likeliest tokens that together reach `share`; the likeliest always stays."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before >= share)
    return logits.masked_fill(dropped, -torch.inf)
