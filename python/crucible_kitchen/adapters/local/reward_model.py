"""`RewardModel`: what the recipe `reward` has trained, ready to score answers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from crucible_kitchen import nn
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.models import prepare_model
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.data import Conversation, parse_row, scored_tokens
from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.ports import HubClient
from crucible_kitchen.types import Message

Turns = str | Sequence[Message | Mapping[str, Any]]
"""Text, or messages."""


class RewardModel:
    """Scores answers to prompts; the higher, the better. It is a reward function, too.

    ``RewardModel("runs/reward-1")(prompts, completions)`` gives a list of scores, which is what
    trainers of policies, such as TRL's GRPO, ask of a reward function.

    Args:
        path: a run's folder, or a folder with the LoRA weights and the scalar head.
        model: the model they belong to, where it is somewhere else now than when it was trained.
        hub_client: fetches a model that is not on this machine.
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``: cuda if there is one.
        dtype: of the frozen weights, ``auto``, ``float32`` or ``bfloat16``.
        tokens_per_pass: most tokens that go through the model at once; it bounds memory.

    Raises:
        ConfigError: there is no such model, or the folder holds no scalar head.
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
        if not saved.scored:
            raise ConfigError(
                f"reward_model: {saved.path} must hold a scalar head beside LoRA, got none; "
                "the recipe `reward` trains one; what it trains with comparator=true is read by "
                "Comparator"
            )
        base = os.fspath(prepare_model(model or saved.base_model, hub_client))
        self._tokenizer = load_tokenizer(base, port="reward_model")
        self._model = CausalModel.load(base, dtype=dtype, device=device)
        nn.add_scalar_head(self._model.model, self._model.head.in_features)
        self._model.load_adapter(saved.path)
        self._tokens_per_pass = tokens_per_pass

    def score(self, prompt: Turns, response: Turns) -> float:
        """The score of an answer.

        Args:
            prompt: what was asked, as text or as messages.
            response: the answer, as text or as messages.
        Raises:
            DataError: one of them is empty or malformed, or the model's template refuses them.
        """
        return self.scores([prompt], [response])[0]

    def scores(self, prompts: Sequence[Turns], responses: Sequence[Turns]) -> list[float]:
        """`score` of each prompt with its response, several at a time.

        Raises:
            ValueError: there is not one response for each prompt.
            DataError: as `score`; the message says in which row.
        """
        if len(prompts) != len(responses):
            raise ValueError(
                f"reward_model: responses must be one for each of {len(prompts)} prompts, "
                f"got {len(responses)}"
            )
        rows = enumerate(zip(prompts, responses, strict=True))
        sequences = [self._tokens(prompt, response, row) for row, (prompt, response) in rows]
        return self._model.score(sequences, tokens_per_pass=self._tokens_per_pass)

    def compare(self, prompt: Turns, first: Turns, second: Turns) -> float:
        """The probability that the first answer is the better one, as `Comparator.compare`.

        Raises:
            DataError: as `score`.
        """
        one, other = self.scores([prompt] * 2, [first, second])
        return 0.5 * (1.0 + math.tanh((one - other) / 2.0))

    def __call__(
        self, prompts: Sequence[Turns], completions: Sequence[Turns], **columns: Any
    ) -> list[float]:
        """`scores`, as a reward function is called; other columns of the rows change nothing."""
        return self.scores(prompts, completions)

    def _tokens(self, prompt: Turns, response: Turns, row: int) -> list[int]:
        conversation = parse_row({"prompt": prompt, "completion": response}, row)
        assert isinstance(conversation, Conversation)  # as every row with a prompt
        try:
            return scored_tokens(conversation, self._tokenizer)
        except DataError as error:
            raise DataError(f"row {row}: {error}") from error
