"""Padding goes through no layer, and nobody sees a difference but in time."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from transformers.utils import ModelOutput

import crucible_kitchen as ck
from crucible_kitchen import ops
from crucible_kitchen.integrations import by_segment

from .models import CONFIGS, tiny, with_lora

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TOLERANCE = 1e-5
# Of StableLM the decoder layers hand on nothing; the report says so.
UNPADDED = sorted(set(CONFIGS) - {"stablelm"})


def right_padded() -> dict[str, Tensor]:
    """Rows of 9, 2, 0 and 5 tokens, trained from the second on; a whole row is padding."""
    lengths = torch.tensor([9, 2, 0, 5])
    tokens = torch.randint(3, 96, (4, 9), generator=torch.Generator().manual_seed(4))
    mask = (torch.arange(9) < lengths[:, None]).long()
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "labels": tokens.masked_fill(mask == 0, -100),
    }


def left_padded() -> dict[str, Tensor]:
    """As `right_padded`, turned round; padding predicts nothing."""
    batch = {name: rows.flip(1) for name, rows in right_padded().items()}
    first = batch["attention_mask"].cumsum(1) == 1
    return batch | {"labels": batch["labels"].masked_fill(first, -100)}


def end_to_end() -> dict[str, Tensor]:
    """Rows of 4, 6 and 2 tokens in one, told apart by positions, as padding-free trainers do."""
    tokens = torch.randint(3, 96, (1, 12), generator=torch.Generator().manual_seed(5))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 0, 1]])
    labels = tokens.masked_fill(positions == 0, -100)
    return {"input_ids": tokens, "position_ids": positions, "labels": labels}


def label_on_padding() -> dict[str, Tensor]:
    """The last padding on the left is asked for the first token: its hidden state counts."""
    batch = left_padded()
    return batch | {"labels": batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)}


def hole() -> dict[str, Tensor]:
    """A token in the middle that nobody sees."""
    batch = right_padded()
    batch["attention_mask"][0, 3] = 0
    return batch | {"labels": batch["labels"].masked_fill(batch["attention_mask"] == 0, -100)}


BATCHES = [right_padded, left_padded, end_to_end, label_on_padding, hole]


def assert_same(model: nn.Module, plain: nn.Module, batch: dict[str, Tensor]) -> None:
    for one in (model, plain):
        one.zero_grad()
        one.said = one(**batch, use_cache=False).loss
        one.said.backward()
    assert abs(model.said - plain.said) <= TOLERANCE * plain.said
    for (name, got), want in zip(model.named_parameters(), plain.parameters(), strict=True):
        if want.grad is not None:
            assert (got.grad - want.grad).norm() <= TOLERANCE * want.grad.norm(), name


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", ["mistral", "gemma2", "smollm3"])
def test_loss_and_gradients_of_every_kind_of_padding(
    name: str, batch: Callable[[], dict[str, Tensor]]
) -> None:
    model = with_lora(tiny(name))
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert_same(model, plain, batch())


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_by_the_attention_function_that_the_model_had(implementation: str) -> None:
    model = tiny("mistral")
    model.set_attn_implementation(implementation)
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert_same(model, plain, right_padded())
    assert model.config._attn_implementation == implementation
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)


@pytest.mark.parametrize("name", UNPADDED)
def test_layers_see_tokens_and_the_head_sees_the_trained(name: str) -> None:
    model, batch = tiny(name), right_padded()
    ops = Counter(part.op for part in ck.patch(model).patched)
    assert ops["unpadded"] + ops["rope"] == 3
    assert (ops["rope"] > 0) == (name not in ("olmo2", "phi3")), "their heads are turned in part"
    rows: list[int] = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda *a: rows.append(a[2].shape[:2].numel()))
    model(**batch)
    model.eval()
    model(**batch)
    tokens, trained = 9 + 2 + 5, 8 + 1 + 4
    last = trained if ops["read tokens"] else tokens
    assert rows == [tokens, last, 4 * 9, 4 * 9], "in training: evaluation gives logits of all"
    assert ops["read tokens"] == (name in ("llama", "mistral"))


@pytest.mark.parametrize(
    ("change", "taken"),
    [({}, 1), ({"dropout": 0.1}, 0), ({"softcap": 30.0}, 0), ({"implementation": "eager"}, 0)],
)
def test_the_fused_attention_takes_what_it_computes(
    change: dict[str, Any], taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    fused = ops.varlen_attention
    monkeypatch.setattr(
        ops, "varlen_attention", lambda *a, **k: calls.append(len(a[0])) or fused(*a, **k)
    )
    segments = by_segment.Segments.of((3, 4), change.pop("implementation", "sdpa"))
    layer = tiny("gemma2").model.layers[0].self_attn
    heads = [torch.randn(1, n, 7, 8) for n in (4, 2, 2)]
    if segments.implementation == "sdpa" and "softcap" in change:
        with pytest.raises(ValueError, match="softcap"):  # transformers' own refusal, still heard
            by_segment.by_segment(layer, *heads, None, segments=segments, **change)
    else:
        by_segment.by_segment(layer, *heads, None, segments=segments, **change)
    assert calls == [7] * taken


def test_a_body_by_itself() -> None:
    model, batch = tiny("qwen2", transformers.AutoModel), right_padded()
    plain = copy.deepcopy(model)
    ck.patch(model)
    batch.pop("labels")
    kept = batch["attention_mask"].bool()
    got, want = (one(**batch, use_cache=False).last_hidden_state for one in (model, plain))
    assert (got - want)[kept].norm() <= TOLERANCE * want[kept].norm()
    assert not got[~kept].any()
    whole = model(**batch, use_cache=True)
    assert whole.past_key_values.get_seq_length() == 9
    assert len(model(**batch, use_cache=False, output_hidden_states=True).hidden_states) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_dropout": 0.1}, "masks of dropout 0.1"),
        ({"use_bidirectional_attention": True}, "it looks ahead"),
    ],
)
def test_what_needs_its_padding_keeps_it(change: dict[str, Any], reason: str) -> None:
    model = tiny("llama")
    for name, value in change.items():
        setattr(model.config, name, value)
    assert sum(reason in part.reason for part in ck.patch(model).left) == 3


def test_attention_that_unpads_by_itself_is_left_to_it() -> None:
    model = tiny("llama").model
    model.config._attn_implementation = "flash_attention_2"
    assert by_segment.why_not(model) == "transformers' flash_attention_2 attention serves it"


@dataclass
class Scored(ModelOutput):
    """As TRL's forward gives it: of each position, 0 where the label is ignored."""

    loss: Tensor | None = None
    log_probs: Tensor | None = None


def scoring(scored: list[int]) -> Callable[..., Any]:
    """A forward as TRL puts it in, which scores every position that it is given."""

    def forward(
        self: Any, *args: Any, fused_lm_head: bool = False, labels: Any = None,
        shift_labels: Any = None, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if not fused_lm_head:
            return type(self).forward(self, *args, labels=labels, **kwargs)
        hidden = self.base_model(*args, use_cache=False, **kwargs).last_hidden_state
        if shift_labels is None:
            hidden, shift_labels = hidden[:, :-1], labels[:, 1:]
        scored.append(shift_labels.numel())
        logits = self.lm_head(hidden).transpose(1, 2)
        log_probs = -functional.cross_entropy(logits, shift_labels, reduction="none")
        return Scored(-log_probs.sum() / (shift_labels != -100).sum(), log_probs)

    return forward


def test_the_head_of_trl_scores_trained_positions() -> None:
    model, batch = tiny("llama"), right_padded()
    scored: list[int] = []
    theirs = model.forward = MethodType(scoring(scored), model)
    want = model(**batch, fused_lm_head=True)
    report = ck.patch(model)
    assert report.patched[0].op == "trained positions"
    got = model(**batch, fused_lm_head=True)
    assert scored == [4 * 8, 8 + 1 + 4]
    assert abs(got.loss - want.loss) <= TOLERANCE * want.loss
    assert (got.log_probs - want.log_probs).norm() <= TOLERANCE * want.log_probs.norm()
    assert model(batch["input_ids"]).logits.shape == (4, 9, 96)
    nothing = torch.full_like(batch["labels"], -100)
    assert model(batch["input_ids"], labels=nothing, fused_lm_head=True).log_probs.shape == (4, 8)
    report.undo()
    assert model.__dict__["forward"] is theirs
    assert torch.equal(model(**batch, fused_lm_head=True).log_probs, want.log_probs)
