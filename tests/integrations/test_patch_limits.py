"""What is left alone and why, what is refused, and that nothing stale is ever computed."""

from __future__ import annotations

import copy
import pickle
from types import MethodType
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import crucible_kitchen as ck
from crucible_kitchen.errors import ConfigError, KernelError
from crucible_kitchen.integrations import peft_lora
from crucible_kitchen.nn import LoraConfig, apply_lora

from .models import assert_same_step, batch, step, tiny, with_lora

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning"),  # of torch.compile
]

TOLERANCE = 1e-5


def reasons(model: nn.Module, kind: str = "Linear") -> set[str]:
    """Why layers with LoRA are left alone."""
    return {p.reason for p in ck.patch(model).parts if p.module == kind and "proj" in p.path}


def test_undo_restores_every_bit() -> None:
    model = with_lora(tiny("llama"))
    before, names = step(model), [set(vars(m)) for m in model.modules()]
    report = ck.patch(model)
    assert report.active
    assert not torch.equal(step(model)[1].popitem()[1], torch.zeros(()))
    report.undo()
    report.undo()
    after = step(model)
    assert torch.equal(before[0], after[0])
    assert all(torch.equal(grad, after[1][name]) for name, grad in before[1].items())
    assert [set(vars(m)) - {"_crucible_patch"} for m in model.modules()] == names
    assert not report.active
    assert "until undo() was called" in str(report)
    assert_same_step(model, copy.deepcopy(model), 0.0)
    ck.patch(model).undo()


def test_undo_reaches_under_a_wrapper_put_on_since() -> None:
    model = with_lora(tiny("llama"))
    want = step(model)[0]
    report = ck.patch(model)
    inner = model.get_base_model()
    wrapped = inner.forward
    inner.forward = MethodType(lambda self, *args, **kwargs: wrapped(*args, **kwargs), inner)
    report.undo()
    assert torch.equal(step(model)[0], want)
    assert model(**batch()).logits is not None


def test_the_report_lists_every_module_in_80_columns() -> None:
    report = ck.patch(with_lora(tiny("stablelm"), target_modules=["q_proj", "down_proj"]))
    text = str(report)
    assert max(map(len, text.splitlines())) <= 80
    assert text == "\n".join(
        [
            "StableLmForCausalLM: our kernels compute 7 of 28 modules",
            "  linear_cross_entropy (cpu) 1 x StableLmForCausalLM",
            "  lora_linear (cpu)          4 x Linear at self_attn.q_proj, mlp.down_proj",
            "  swiglu (cpu)               2 x StableLmMLP at mlp",
            "left alone:",
            "  1 x StableLmModel at model: its layers hand attention no arguments of ours",
            "  1 x Embedding at model.embed_tokens: there is no op for Embedding",
            "  2 x StableLmAttention at self_attn: its layers hand attention no arguments of",
            "      ours",
            "  10 x Linear at self_attn.k_proj, self_attn.v_proj, self_attn.o_proj,",
            "      mlp.gate_proj, mlp.up_proj: it has no LoRA; a plain linear is torch's best",
            "      case",
            "  5 x LayerNorm at input_layernorm, post_attention_layernorm, model.norm: there",
            "      is no op for LayerNorm",
            "  1 x StableLmRotaryEmbedding at model.rotary_emb: its angles are computed once",
            "      a step",
            "  1 x Linear at lm_head: the head, which the loss reads in training",
        ]
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"use_dora": True, "lora_dropout": 0.1},
            "it is DoRA with lora_dropout, whose mask PEFT lets the frozen weight see too",
        ),
        ({"lora_bias": True}, "its lora_B has a bias (lora_bias=True), or is no linear"),
    ],
)
def test_lora_that_is_more_than_lora_is_left_alone(options: dict[str, Any], reason: str) -> None:
    model = with_lora(tiny("llama"), **options)
    plain = copy.deepcopy(model)
    assert reasons(model) == {reason}
    for one in (model, plain):
        torch.manual_seed(3)
        one.loss = step(one)[0]
    assert abs(model.loss - plain.loss) <= TOLERANCE * plain.loss


class Linear4bit(nn.Linear):
    """As a library of quantised layers would name its own."""


def test_quantised_layers_are_left_alone() -> None:
    model = tiny("llama")
    for layer in model.model.layers:
        linear = layer.self_attn.q_proj
        layer.self_attn.q_proj = Linear4bit(32, 32)
        layer.self_attn.q_proj.load_state_dict(linear.state_dict())
    model = with_lora(model, target_modules=["q_proj"])
    assert "it is LoRA on Linear4bit: quantised, or no linear" in reasons(model)


def test_layers_that_are_trained_hooked_or_wrapped_are_left_alone() -> None:
    model = with_lora(tiny("llama"))
    first, second = (layer.self_attn for layer in model.get_base_model().model.layers)
    first.q_proj.base_layer.weight.requires_grad_(True)
    first.k_proj.lora_A["default"].register_forward_hook(lambda *_: None)
    second.q_proj.forward = second.q_proj.forward
    found = {p.path: p.reason for p in ck.patch(model).left}
    assert "trained too" in found["model.layers.0.self_attn.q_proj"]
    assert "a hook" in found["model.layers.0.self_attn.k_proj"]
    assert found["model.layers.1.self_attn.q_proj"] == "its forward is replaced already"


def test_no_kernel_takes_a_float16_model_on_the_cpu() -> None:
    model = tiny("llama").half()
    report = ck.patch(model)
    assert {part.op for part in report.patched} == {"unpadded"}
    report.undo()
    assert len(ck.patch(model.float()).patched) > len(report.patched)
    assert any("no kernel takes float16 on cpu" in part.reason for part in report.left)


@pytest.mark.parametrize("model", ["gpt2", "sequential"])
def test_an_unknown_architecture_is_left_alone(model: str) -> None:
    small = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16)
    made = {"gpt2": transformers.GPT2LMHeadModel(small), "sequential": nn.Sequential()}[model]
    report = ck.patch(made)
    assert (len(report.parts), report.patched) == (1, ())
    assert ("gpt2 is not among" if model == "gpt2" else "no model of") in report.left[0].reason
    assert max(map(len, str(report).splitlines())) <= 80
    report.undo()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: ck.patch(m) and m, "got one that is patched; call undo()"),
        (torch.compile, "not compiled yet"),
        (lambda m: m.compile() or m, "not compiled yet"),
        (lambda m: m.to("meta"), "on the meta device; load it first"),
        (nn.DataParallel, "without DataParallel around it"),
    ],
)
def test_a_model_that_is_not_ready_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ck.patch(make(tiny("llama")))


def test_a_patch_that_changed_the_result_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_lora(tiny("llama"))
    monkeypatch.setattr(peft_lora, "lora_forward", _doubled)
    want = step(model)
    with pytest.raises(KernelError, match="LlamaForCausalLM must give the same"):
        ck.patch(model)
    assert torch.equal(step(model)[0], want[0])
    monkeypatch.undo()
    assert ck.patch(model).active


def _doubled(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return type(layer).forward(layer, x) * 2


def test_what_peft_does_later_is_right() -> None:
    model = with_lora(tiny("llama"))
    plain = copy.deepcopy(model)
    ck.patch(model)
    inputs = {**batch(), "labels": None}

    def same() -> None:
        got, want = model(**inputs).logits, plain(**inputs).logits
        assert (got - want).norm() <= TOLERANCE * want.norm()

    same()
    with model.disable_adapter(), plain.disable_adapter():
        same()
    for one in (model, plain):
        one.merge_adapter()
    same()
    for one in (model, plain):
        one.unmerge_adapter()
    same()
    assert_same_step(model, plain, 1e-4)  # PEFT's own subtraction left rounding in the weights
    for one in (model, plain):
        torch.manual_seed(4)
        one.add_adapter("other", copy.deepcopy(one.peft_config["default"]))
        one.base_model.set_adapter(["default", "other"])
    same()
    for one in (model, plain):
        one.set_adapter("other")
    same()
    inputs["adapter_names"] = ["default", "other"]
    model.eval(), plain.eval()
    same()


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.requires_grad_(False).mul_(1.5),
        lambda w: w.data.mul_(1.5),
        lambda w: setattr(w, "data", w.data * 1.5),
        lambda w: w.data.copy_(torch.ones_like(w)),
    ],
    ids=["in place", "through data", "other memory", "copied"],
)
def test_weights_changed_after_they_were_packed(change: Any) -> None:
    model = with_lora(tiny("llama"))
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert_same_step(model, plain, TOLERANCE)
    with torch.no_grad():
        for one in (model, plain):
            change(one.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight)
    assert_same_step(model, plain, TOLERANCE)


def test_another_checkpoint_loaded_after_they_were_packed() -> None:
    model = with_lora(tiny("llama"))
    plain = copy.deepcopy(model)
    ck.patch(model)
    step(model)
    other = {name: weight * 1.25 for name, weight in plain.state_dict().items()}
    for one in (model, plain):
        one.load_state_dict(other)
    assert_same_step(model, plain, TOLERANCE)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 6e-2), (torch.float64, 1e-9)])
def test_a_model_moved_to_another_dtype(dtype: torch.dtype, tolerance: float) -> None:
    model = with_lora(tiny("llama"))
    plain = copy.deepcopy(model)
    ck.patch(model)
    step(model)
    assert_same_step(model.to(dtype), plain.to(dtype), tolerance)


def test_a_model_moved_to_another_device_and_back() -> None:
    """The meta device stands for any that no kernel serves: the model's own code runs there."""
    model = with_lora(tiny("llama"))
    plain = copy.deepcopy(model)
    ck.patch(model)
    step(model)
    state = {name: weight * 1.25 for name, weight in plain.state_dict().items()}
    model.to("meta")
    assert model(batch()["input_ids"].to("meta")).logits.shape == (2, 11, 96)
    for one in (model.to_empty(device="cpu"), plain):
        one.load_state_dict(state)
    for buffer, kept in zip(model.buffers(), plain.buffers(), strict=True):
        buffer.copy_(kept)  # frequencies, which a state dict leaves out
    assert_same_step(model, plain, TOLERANCE)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT advises
@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["embed_tokens", "q_proj"]])
def test_lora_on_a_head_that_is_tied(targets: list[str]) -> None:
    model = with_lora(tiny("qwen2"), target_modules=targets)
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert_same_step(model, plain, TOLERANCE)


def test_logits_are_there_wherever_somebody_may_look_at_them() -> None:
    model = tiny("llama")
    plain = copy.deepcopy(model)
    ck.patch(model)
    assert model(**batch()).logits is None
    assert model(**{**batch(), "labels": None}).logits is not None
    for options in ({"return_dict": False}, {"logits_to_keep": 11}):
        got, want = model(**batch(), **options), plain(**batch(), **options)
        torch.testing.assert_close(got[1], want[1], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert model(**batch()).logits is not None
    assert model.eval()(**batch()).logits is not None


def test_the_loss_can_be_left_alone() -> None:
    model = tiny("llama")
    report = ck.patch(model, loss=False)
    assert [p.reason for p in report.left if p.path == ""] == ["patch(loss=False)"]
    assert model(**batch()).logits is not None


def test_the_loss_takes_what_trainers_give_it() -> None:
    model = tiny("gemma2")
    plain = copy.deepcopy(model)
    ck.patch(model)
    shifted = nn.functional.pad(batch()["labels"], (0, 1), value=-100)[:, 1:].contiguous()
    for options in (
        {"num_items_in_batch": torch.tensor(7)},
        {"num_items_in_batch": 7},
        {"shift_labels": shifted},
        {"return_dict": True},
        {"output_hidden_states": True},
    ):
        (got, grads), (want, wants) = step(model, **options), step(plain, **options)
        assert abs(got - want) <= TOLERANCE * abs(want)
        for name, grad in wants.items():
            assert (grads[name] - grad).norm() <= TOLERANCE * grad.norm(), name
    assert len(model(**batch(), output_hidden_states=True).hidden_states) == 3


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda m: setattr(m.lm_head, "bias", nn.Parameter(torch.ones(96))), "head has a bias"),
        (lambda m: setattr(m, "loss_function", lambda **_: None), "not transformers' ForCausalLM"),
        (lambda m: setattr(m, "lm_head", nn.Sequential(m.lm_head)), "head is Sequential"),
        (lambda m: setattr(m, "forward", m.forward), "forward is replaced already"),
    ],
)
def test_a_loss_that_is_another_one_is_left_alone(spoil: Any, reason: str) -> None:
    model = tiny("llama")
    spoil(model)
    [found] = [p.reason for p in ck.patch(model).parts if p.path == ""]
    assert reason in found


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_models_without_a_head_and_classifiers(name: str) -> None:
    tokens = batch()["input_ids"]
    for kind in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
        model = tiny(name, kind)
        plain = copy.deepcopy(model)
        assert ck.patch(model).active
        got, want = model(tokens)[0], plain(tokens)[0]
        assert (got - want).norm() <= TOLERANCE * want.norm()


def test_copies_and_pickles_of_a_patched_model() -> None:
    model = with_lora(tiny("llama"))
    report = ck.patch(model)
    want = step(model)[0]
    copied, pickled = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    assert copied(**batch()).logits is None
    assert torch.equal(step(copied)[0], want)
    assert pickled(**batch()).logits is not None
    ck.patch(pickled)
    report.undo()
    assert model(**batch()).logits is not None
    assert copied(**batch()).logits is not None, "a copy is taken back with its model"


def test_our_own_lora_in_a_patched_model_and_the_other_way_round() -> None:
    first, second = tiny("llama"), tiny("llama")
    apply_lora(first, LoraConfig(rank=4))
    report = ck.patch(first)
    assert sum(p.module == "LoraLinear" for p in report.left) == 14
    ck.patch(second)
    apply_lora(second, LoraConfig(rank=4))
    assert_same_step(first, second, TOLERANCE)


def test_it_writes_the_same_text() -> None:
    model = with_lora(tiny("gemma2")).eval()
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    tokens = batch()["input_ids"][:, :5]
    want = model.generate(input_ids=tokens, **options)
    ck.patch(model)
    assert torch.equal(model.generate(input_ids=tokens, **options), want)


def test_activation_checkpointing() -> None:
    model = with_lora(tiny("llama"))
    plain = copy.deepcopy(model)
    ck.patch(model)
    inner = model.get_base_model()
    inner.activation_checkpointing_enable({"use_reentrant": False})
    assert_same_step(model, plain, TOLERANCE)


def test_the_hooks_that_matter_are_torchs() -> None:
    assert all(hasattr(nn.Linear(1, 1), name) for name in peft_lora._HOOKS)
