"""Linears without an update in bfloat16: which of them our kernel multiplies, and how well."""

import copy

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from crucible_kitchen import nn
from crucible_kitchen.adapters.local import linears, sampler
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed
from crucible_kitchen.adapters.local.tokenizer import load_tokenizer
from crucible_kitchen.ops import _frozen_linear, _lora_linear_cpu
from crucible_kitchen.types import SamplingParams

LAYERS = 2
MODELS = {
    # Linears of a layer, and the model.
    "llama": (
        7,
        lambda: LlamaForCausalLM(
            LlamaConfig(
                hidden_size=96, intermediate_size=256, num_hidden_layers=LAYERS, vocab_size=320,
                num_attention_heads=4, num_key_value_heads=2, attention_bias=True,
            )
        ),
    ),
    "gpt2": (
        4,
        lambda: GPT2LMHeadModel(
            GPT2Config(n_embd=96, n_layer=LAYERS, n_head=4, vocab_size=320,
                       bos_token_id=0, eos_token_id=2)
        ),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, (_, make) in MODELS.items():
        torch.manual_seed(3)
        model = make()
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.data.normal_(std=weight.shape[1] ** -0.5)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


@pytest.fixture
def load(folders, monkeypatch):
    """On every processor: what is slower elsewhere must be right there too."""
    monkeypatch.setattr(_frozen_linear, "PAYS", True)

    def load(name="llama", dtype="bfloat16"):
        return CausalModel.load(folders[name], dtype=dtype, device="cpu")

    return load


@pytest.fixture
def products(monkeypatch):
    """The shapes of x and W of each product by our kernel."""
    seen, ours = [], _frozen_linear.frozen_linear

    def watched(x, weight, *args, **options):
        seen.append((tuple(x.shape), tuple(weight.shape)))
        return ours(x, weight, *args, **options)

    monkeypatch.setattr(_frozen_linear, "frozen_linear", watched)
    return seen


def packed(seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = (9, 3, 17, 1, 12)
    return Packed.of(
        [torch.randint(3, 320, (n,), generator=generator).tolist() for n in lengths],
        torch.device("cpu"),
    )


def logits(model, batch):
    return model.head(model.hidden(batch))


@pytest.mark.parametrize("name", MODELS)
def test_every_linear_and_the_head_in_decoding(load, tiny_folder, products, name):
    model, each = load(name), MODELS[name][0]
    products.clear()
    params = SamplingParams(max_tokens=3, temperature=0.0, stop=())
    tokenizer = load_tokenizer(tiny_folder, port="completer")
    (sample,) = sampler.sample(model, tokenizer, [5, 6, 7, 8], 1, params)
    assert len(sample.tokens) == 3
    assert len(products) == 3 * (LAYERS * each + 1)
    heads = [x for x, weight in products if weight[0] == model.vocabulary]
    assert heads == [(1, 1, model.head.in_features)] * 3


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_no_further_from_float64_than_by_torchs_products(load, monkeypatch, name):
    """In the mean of some batches: which of two roundings hits better is chance."""
    ours, exact = load(name), load(name)
    exact.model.double()  # of the same weights
    errors = {True: [], False: []}
    for seed in range(8):
        batch = packed(seed)
        with torch.no_grad():
            want = exact.head(exact.hidden(batch))
            for pays, found in errors.items():
                monkeypatch.setattr(_frozen_linear, "PAYS", pays)
                found.append(float((logits(ours, batch) - want).norm() / want.norm()))
    # torch rounds a product once too, so they are equal but for chance: 1.006 and 0.98.
    assert sum(errors[True]) <= 1.05 * sum(errors[False])


def test_log_probabilities_keep_their_digits(load, tiny_folder):
    """Hidden states are rounded to bfloat16, but logits of them are not."""
    model = load()
    model.head.weight.data *= 8.0  # a standard deviation of 8, where text has 6
    tokenizer, prompt = load_tokenizer(tiny_folder, port="completer"), [5, 6, 7, 8]
    seen = []
    model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1]))
    params = SamplingParams(max_tokens=1, temperature=1.0, stop=(), seed=1)

    def exact(hidden):
        return (model.head.weight.double() @ hidden.double()).log_softmax(-1)

    for sample in sampler.sample(model, tokenizer, prompt, 16, params):
        want = float(exact(seen[0])[sample.tokens[0]])
        assert sample.logprobs[0] == pytest.approx(want, abs=5e-3)  # bfloat16's would be 3e-2
    with torch.no_grad():
        want = exact(model.hidden(Packed.of([prompt], torch.device("cpu")))[-1])
    for token, logprob in sampler.topk_logprobs(model, [*prompt, 9], 320)[-1]:
        assert logprob == pytest.approx(float(want[token]), abs=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_trained_head_keeps_its_digits(load, tiny_folder, rslora):
    """Log-probabilities and gradients in training, and what is drawn, with dropout off."""
    model = load()
    config = nn.LoraConfig(rank=4, targets="head", dropout=0.5, use_rslora=rslora)
    nn.apply_lora(model.model, config)
    linears.fuse(model.model)
    head = model.head.eval()
    head.weight.data *= 8.0
    head.lora_b.data.normal_(generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(40, 96, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(320, (40,), generator=generator)
    wanted = [hidden, head.lora_a, head.lora_b]
    got = model.logprobs_of(hidden, targets)
    slopes = torch.autograd.grad(got.sum(), wanted)
    exact = [t.detach().double().requires_grad_() for t in wanted]
    x, a, b = exact
    logits = x @ head.weight.double().T + head.scale * (x @ a.T) @ b.T
    want = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    assert float((got.double() - want).abs().max().detach()) <= 1e-2  # bfloat16's would be 1e-1
    for slope, other in zip(slopes, torch.autograd.grad(want.sum(), exact), strict=True):
        assert float((slope.double() - other).norm() / other.norm()) <= 5e-3
    seen = []
    head.register_forward_hook(lambda _, args, made: seen.append(made.dtype))
    params = SamplingParams(max_tokens=1, temperature=0.0, stop=())
    sampler.sample(model, load_tokenizer(tiny_folder, port="completer"), [5, 6], 1, params)
    assert seen == [torch.float32]


@pytest.mark.parametrize("config", [{"dora": True}, {"dropout": 0.5}], ids=str)
def test_a_head_with_another_update_computes_as_ever(load, config):
    model = load()
    nn.apply_lora(model.model, nn.LoraConfig(rank=4, targets="head", **config))
    nn.set_dropout_step(model.model, 3)
    head = model.head.train()
    hidden = torch.randn(5, 96).bfloat16()
    want = head(hidden)
    linears.fuse(model.model)
    assert torch.equal(head(hidden), want)


def test_gradients_go_through_linears_that_nobody_trains(load, monkeypatch, products):
    batch, made = packed(), {}
    rows = torch.arange(len(batch.tokens))
    for pays in (True, False):
        monkeypatch.setattr(_frozen_linear, "PAYS", pays)
        model = load()
        nn.apply_lora(model.model, nn.LoraConfig(rank=2, targets="attention"))
        for parameter in nn.lora_parameters(model.model):
            parameter.data += 0.1 * torch.ones_like(parameter)
        products.clear()
        model.logprobs(batch, rows, batch.tokens).sum().backward()
        made[pays] = torch.cat([p.grad.flatten() for p in nn.lora_parameters(model.model)])
        assert len(products) == (LAYERS * 3 if pays else 0)  # of the MLPs
    error = (made[True] - made[False]).norm() / made[False].norm()
    assert float(error) < 0.05  # two bfloat16 models


def test_float32_models_are_left_alone(load, products):
    logits(load(dtype="float32"), packed())
    assert not products


def test_linears_with_a_forward_of_their_own_keep_it(load, products):
    model = load()
    layer = model.model.model.layers[0].mlp.down_proj
    del layer.forward
    layer.forward = lambda x: torch.zeros(*x.shape[:-1], layer.out_features, dtype=x.dtype)
    linears.fuse(model.model)
    products.clear()
    logits(model, packed())
    assert len(products) == LAYERS * 7  # the head's, and all but that one


def test_twins_share_what_is_packed(load, products):
    model = load()
    twin = model.twin()
    with torch.no_grad():
        want = logits(model, packed())
        before = len(_lora_linear_cpu._FOR_FORWARD)
        products.clear()
        assert torch.equal(logits(twin, packed()), want)
    assert len(products) == LAYERS * 7 + 1
    assert len(_lora_linear_cpu._FOR_FORWARD) == before
    assert torch.equal(logits(copy.deepcopy(model), packed()), want)
