"""`Comparator`: what the recipe `reward` has trained with ``comparator=true``."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import torch

from crucible_kitchen import nn
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.local.packed import Packed, groups
from crucible_kitchen.adapters.local.reward_model import Turns
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.data import Comparison, Conversation, comparison, parse_row, transcript
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import HubClient


class Comparator:
    """Says which of two answers to a prompt is the better one.

    Args:
        path: a run's folder, or a folder with the LoRA weights.
        model: the model they belong to, where it is somewhere else now than when it was trained.
        hub_client: fetches a model that is not on this machine.
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there is one.
        dtype: of the frozen weights, ``auto``, ``float32`` or ``bfloat16``.
        tokens_per_pass: most tokens that go through the model at once; it bounds memory.

    Raises:
        ConfigError: there is no such model, or the folder holds a scalar head.
        PortError: the folder or the model cannot be read, or they do not fit.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model: str | os.PathLike[str] | None = None,
        hub_client: HubClient | None = None,
        device: str = "auto",
        dtype: str = "auto",
        tokens_per_pass: int = 8192,
    ) -> None:
        saved = nn.saved_lora(path)
        if saved.scored:
            raise ConfigError(
                f"comparator: {saved.path} must hold LoRA alone, got a scalar head beside it; "
                "RewardModel reads that"
            )
        base = os.fspath(prepare_model(model or saved.base_model, hub_client))
        self._tokenizer = load_tokenizer(base, port="comparator")
        self._model = CausalModel.load(base, dtype=dtype, device=device)
        self._model.load_adapter(saved.path)
        self._tokens_per_pass = tokens_per_pass

    def compare(self, prompt: Turns, first: Turns, second: Turns) -> float:
        """The probability that the first answer is the better one.

        The model is asked in both orders, and its log odds are averaged: with the answers
        exchanged, the result is 1 less this one, whatever letter the model likes.

        Args:
            prompt: what was asked, as text or as messages.
            first, second: the answers, as text or as messages.
        Raises:
            DataError: one of them is malformed, or the model's template refuses them.
        """
        return self.compare_all([prompt], [first], [second])[0]

    def compare_all(
        self, prompts: Sequence[Turns], firsts: Sequence[Turns], seconds: Sequence[Turns]
    ) -> list[float]:
        """`compare` of each prompt with its two answers, several at a time.

        Raises:
            ValueError: there are not two answers for each prompt.
            DataError: as `compare`; the message says in which row.
        """
        if not len(prompts) == len(firsts) == len(seconds):
            raise ValueError(
                f"comparator: firsts and seconds must be one for each of {len(prompts)} prompts, "
                f"got {len(firsts)} and {len(seconds)}"
            )
        asked: list[Comparison] = []
        for row, turns in enumerate(zip(prompts, firsts, seconds, strict=True)):
            asked += self._asked(*turns, row)
        odds = self._log_odds(asked)
        means = [(first - last) / 2.0 for first, last in zip(odds[0::2], odds[1::2], strict=True)]
        return [0.5 * (1.0 + math.tanh(mean / 2.0)) for mean in means]

    def _asked(self, prompt: Turns, first: Turns, second: Turns, row: int) -> list[Comparison]:
        """The first answer first, and last."""
        sides = [parse_row({"prompt": prompt, "completion": one}, row) for one in (first, second)]
        texts: list[str] = []
        for side in sides:
            assert isinstance(side, Conversation)  # as every row with a prompt
            start = side.prompt_messages
            texts.append(transcript(side.messages[start:], roles=False))
            shown = transcript(side.messages[:start])
        a, b = texts
        try:
            orders = (a, b), (b, a)
            return [comparison(shown, *order, self._tokenizer) for order in orders]
        except DataError as error:
            raise DataError(f"row {row}: {error}") from error

    @torch.no_grad()
    def _log_odds(self, asked: Sequence[Comparison]) -> list[float]:
        """Of each comparison, the log odds of A against B."""
        model = self._model
        model.model.eval()
        odds: list[float] = []
        lengths = [len(one.tokens) for one in asked]
        for group in groups(asked, lengths, self._tokens_per_pass):
            packed = Packed.of([one.tokens for one in group], model.device)
            ends = torch.tensor([int(place[-1]) for place in packed.places], device=model.device)
            letters = torch.tensor([one.letters for one in group], device=model.device)
            said = model.logprobs(packed, ends.repeat_interleave(2), letters.flatten())
            odds += (said[0::2] - said[1::2]).tolist()
        return odds
