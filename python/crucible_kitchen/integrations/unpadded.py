"""A model's body on a padded batch without its padding: its rows end to end through all layers."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crucible_kitchen.integrations import peft_lora
from crucible_kitchen.integrations.by_segment import Segments
from crucible_kitchen.nn.last_layer import takes_read

# What the bodies' forwards begin with.
_FIRST = ["self", "input_ids", "attention_mask", "position_ids"]


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a batch [B, S] are that are no padding.

    Args:
        places: int64 [T], of each token among the B * S.
        lengths: tokens of each sequence, in order; they sum to T.
    """

    places: Tensor
    lengths: tuple[int, ...]


def why_not(body: nn.Module) -> str | None:
    """Why a body is not computed without padding, or None."""
    if list(inspect.signature(type(body).forward).parameters)[: len(_FIRST)] != _FIRST:
        return "its forward takes other arguments"
    dropout = max([getattr(body.config, "attention_dropout", 0.0), *_dropouts(body)])
    if dropout > 0:  # a seeded run would draw other masks without the padding
        return f"masks of dropout {dropout} are drawn for padding too; set it to 0"
    return None


def _dropouts(body: nn.Module) -> list[float]:
    """Shares of the masks that torch draws; those of a LoRA that is ours are others in any case."""
    ours = {
        module
        for layer in body.modules()
        if peft_lora.is_lora(layer) and peft_lora.why_not(layer) is None
        for module in layer.get_submodule("lora_dropout").children()
    }
    drops = (module for module in body.modules() if isinstance(module, nn.Dropout))
    return [drop.p for drop in drops if drop not in ours]


def is_put(body: nn.Module) -> bool:
    """Whether a body runs `body_forward` now, and so takes ``wanted``."""
    put: Any = getattr(body.__dict__.get("forward"), "__func__", None)
    return getattr(put, "runs", None) is body_forward and put.switch.on and not compiling()


def compiling() -> bool:
    """What is compiled has one shape; how many tokens are no padding differs between batches."""
    return torch.compiler.is_compiling()


def body_forward(
    body: Any,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    *,
    inputs_embeds: Tensor | None = None,
    use_cache: bool | None = None,
    wanted: Tensor | None = None,
    **others: Any,
) -> Any:
    """The body's output, computed at the tokens that are no padding; at the others it is 0.

    Args:
        body: the layers of a model of transformers, all of whose attention goes by segment.
        input_ids, attention_mask, position_ids, inputs_embeds, use_cache, others: what its forward
            takes. With a cache, or with anything asked for beyond the last hidden states, the
            body's own forward runs.
        wanted: int64 [n], the places among the B * S tokens whose hidden states are needed, in
            increasing order; they are all that the output has then, as [1, n, H]. None: all of
            them, as [B, S, H].
    """
    given = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "inputs_embeds": inputs_embeds,
    }
    rows = None
    if _is_plain(body, given, use_cache, others):
        rows = _rows(given, wanted)
    if rows is not None:
        return _unpadded(body, given, rows, wanted)
    if wanted is None:
        return NotImplemented
    output = type(body).forward(body, **given, use_cache=use_cache, **others)
    hidden = output.last_hidden_state
    output.last_hidden_state = hidden.flatten(0, 1).index_select(0, wanted)[None]
    return output


def _is_plain(
    body: Any, given: dict[str, Tensor | None], use_cache: bool | None, others: dict[str, Any]
) -> bool:
    """Whether a call wants the last hidden states, of whole sequences, and nothing else."""
    config, mask = body.config, given["attention_mask"]
    others = {name: value for name, value in others.items() if name != "return_dict" or not value}
    cached = config.use_cache if use_cache is None else use_cache
    one = (given["input_ids"] is None) != (given["inputs_embeds"] is None)
    asked = any(value is not None and value is not False for value in others.values())
    recorded = config.output_hidden_states or getattr(config, "output_attentions", False)
    as_dict = config.return_dict and others.get("return_dict") is not False
    flat = mask is None or (isinstance(mask, Tensor) and mask.ndim == 2)
    return one and flat and as_dict and not (cached or asked or recorded or compiling())


def _rows(given: dict[str, Tensor | None], wanted: Tensor | None) -> Rows | None:
    """Where the tokens are; None if padding is not at the ends alone, or is asked for."""
    inputs = given["inputs_embeds"] if given["input_ids"] is None else given["input_ids"]
    assert inputs is not None
    (count, length), mask, device = inputs.shape[:2], given["attention_mask"], inputs.device
    if mask is None:
        places = torch.arange(count * length, device=device)
        return Rows(places, _lengths(given["position_ids"], count, length))
    if mask.shape != (count, length):
        return None
    kept = mask.to(device=device, dtype=torch.bool)
    starts = kept[:, 0].long() + (kept[:, 1:] & ~kept[:, :-1]).sum(1)
    if wanted is not None and not kept.flatten()[wanted].all():
        return None
    lengths = tuple(n for n in kept.sum(1).tolist() if n)
    if not lengths or int(starts.max()) > 1:
        return None
    return Rows(kept.flatten().nonzero().squeeze(1), lengths)


def _lengths(positions: Tensor | None, count: int, length: int) -> tuple[int, ...]:
    """Of the sequences in unmasked rows: where positions do not go up by one, another begins."""
    if positions is None or length == 0:
        return (length,) * count
    begins = torch.ones((count, length), dtype=torch.bool, device=positions.device)
    begins[:, 1:] = (positions[:, 1:] - positions[:, :-1] != 1).expand(count, length - 1)
    starts = [*begins.flatten().nonzero().squeeze(1).tolist(), count * length]
    return tuple(end - start for start, end in itertools.pairwise(starts))


def _unpadded(body: Any, given: dict[str, Tensor | None], rows: Rows, wanted: Tensor | None) -> Any:
    name = "inputs_embeds" if given["input_ids"] is None else "input_ids"
    inputs, positions = given[name], given["position_ids"]
    assert inputs is not None
    shape = inputs.shape[:2]
    if positions is None:
        positions = torch.arange(shape[1], device=inputs.device)[None]
    options: dict[str, Any] = {}
    read = None
    if wanted is not None:
        # Places among the tokens of the batch, as places among those that are computed.
        inverse = rows.places.new_zeros(shape[0] * shape[1])
        inverse[rows.places] = torch.arange(len(rows.places), device=inputs.device)
        read = inverse[wanted]
        if takes_read(body):
            options["read"] = read
    output = type(body).forward(
        body,
        **{name: inputs.flatten(0, 1).index_select(0, rows.places)[None]},
        # Fits no scores: a layer that would look at it could only fail.
        attention_mask=torch.empty((1, 1, 0, 0), device=inputs.device),
        position_ids=positions.expand(shape).reshape(-1)[rows.places][None],
        use_cache=False,
        segments=Segments.of(rows.lengths, body.config._attn_implementation),
        **options,
    )
    hidden = output.last_hidden_state[0]
    total = shape[0] * shape[1]
    if read is not None:
        output.last_hidden_state = (hidden if options else hidden.index_select(0, read))[None]
    elif len(hidden) == total:
        output.last_hidden_state = hidden.view(*shape, -1)
    else:
        spread = hidden.new_zeros((total, hidden.shape[1])).index_copy(0, rows.places, hidden)
        output.last_hidden_state = spread.view(*shape, -1)
    return output
