"""A decoder layer as one node gives what its parts give, each a node of its own."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from crucible_kitchen import nn, ops
from crucible_kitchen.adapters.local import decoder
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed
from crucible_kitchen.errors import KernelError

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig(**SIZES)),
    "biases": (LlamaForCausalLM, LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "mistral": (MistralForCausalLM, MistralConfig(**SIZES, sliding_window=3)),
}
NODES = ("_NodeBackward", "_NodeInOneCallBackward")
# float32: sums in another order where several layers give one gradient, and some of them cancel.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, (kind, config) in MODELS.items():
        torch.manual_seed(4)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms begin as ones, biases as zeros
                parameter.data += 0.1 * torch.randn_like(parameter)
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
    return made


@pytest.fixture
def load(folders):
    """A model with an update that is not zero."""

    def load(name="llama", dtype="float32", **lora):
        loaded = CausalModel.load(folders[name], dtype=dtype, device="cpu")
        nn.apply_lora(loaded.model, nn.LoraConfig(**{"rank": 2, **lora}))
        generator = torch.Generator().manual_seed(2)
        for parameter in nn.lora_parameters(loaded.model):
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        nn.set_dropout_step(loaded.model, 7)
        return loaded

    return load


@pytest.fixture
def packed():
    start = [5, 6, 7, 8, 9]
    sequences = [[*start, 3, 4, 11], [*start, 12, 13, 14, 15], [20, 21]]
    return Packed.of(sequences, torch.device("cpu"), share_at_least=2)


@pytest.fixture
def parts(monkeypatch):
    """Calls a function while every part of a layer is a node of its own."""

    def parts(compute, *args):
        with monkeypatch.context() as patch:
            patch.setattr(decoder, "_trained", lambda layer: None)
            return compute(*args)

    return parts


def graph(output):
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
    return seen


def nodes(output):
    """How many layers of an output's graph are one node each."""
    seen = graph(output)
    return sum(type(node).__name__ in NODES for node in seen)


def gradients(model, packed):
    hidden = model.hidden(packed)
    slope = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(3))
    wanted = [p for p in nn.lora_parameters(model.model) if p.requires_grad]
    return [hidden.detach(), *torch.autograd.grad(hidden, wanted, slope.to(hidden.dtype))]


def close(got, want, bound=CLOSE):
    for one, other in zip(got, want, strict=True):
        assert (one - other).norm() <= bound * other.norm()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_outputs_and_gradients(load, packed, parts, name, dropout):
    model = load(name, dropout=dropout)
    model.model.train()
    # The last layer has a forward of its own, for the rows that are read.
    assert nodes(model.hidden(packed)) == SIZES["num_hidden_layers"] - 1
    assert parts(lambda: nodes(model.hidden(packed))) == 0
    close(gradients(model, packed), parts(gradients, model, packed))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_call_gives_the_bits_of_its_kernels(load, packed, name, dtype):
    model = load(name, dtype, dropout=0.3)
    model.model.train()

    def kinds():
        return {type(node).__name__ for node in graph(model.hidden(packed))} & {*NODES}

    assert kinds() == {"_NodeInOneCallBackward"}
    got = gradients(model, packed)
    with ops.using("cpu"):
        assert kinds() == {"_NodeBackward"}
        want = gradients(model, packed)
    assert all(map(torch.equal, got, want))


def test_one_call_at_any_number_of_threads_and_again(load, packed):
    model, before = load(), torch.get_num_threads()
    want = gradients(model, packed)
    try:
        torch.set_num_threads(1 if before > 1 else 2)
        assert all(map(torch.equal, gradients(model, packed), want))
    finally:
        torch.set_num_threads(before)
    hidden = model.hidden(packed)
    wanted = list(nn.lora_parameters(model.model))
    first = torch.autograd.grad(hidden.sum(), wanted, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(hidden.sum(), wanted), first))


@pytest.mark.parametrize("name", MODELS)
def test_no_further_off_in_bfloat16(load, packed, parts, name):
    """Than the parts are from float32, by the mean over all tensors."""
    low, high = load(name, "bfloat16"), load(name)
    weights = low.model.state_dict()
    high.model.load_state_dict({key: weight.float() for key, weight in weights.items()})
    want = parts(gradients, high, packed)

    def off(got):
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(got, want, strict=True)]
        return sum(errors) / len(errors)

    assert nodes(low.hidden(packed)) > 0
    # Both round alike, some sums in another order: chance makes the rest.
    assert off(gradients(low, packed)) <= 1.1 * off(parts(gradients, low, packed))


def test_checkpointing_gives_the_same_bits(load, packed):
    model = load(dropout=0.3)
    model.model.train()
    want = gradients(model, packed)
    model.checkpoint_gradients()
    for got, other in zip(gradients(model, packed), want, strict=True):
        assert torch.equal(got, other)


def test_gradients_of_some_alone(load, packed, parts):
    """Neither of what is frozen nor of the rows of the first layer."""
    model = load()
    first = model.model.base_model.layers[0]
    frozen = [first.self_attn.q_proj.lora_a, first.mlp.up_proj.lora_b, first.mlp.down_proj.lora_a]
    frozen += list(nn.lora_parameters(first.self_attn.o_proj))
    for parameter in frozen:
        parameter.requires_grad_(False)
    close(gradients(model, packed), parts(gradients, model, packed))
    assert all(parameter.grad is None for parameter in frozen)


def test_without_gradients(load, packed, parts):
    model = load()
    with torch.no_grad():
        close([model.hidden(packed)], [parts(model.hidden, packed)])


@pytest.mark.parametrize(
    "lora", [{"dora": True}, {"targets": ["q_proj", "v_proj"]}], ids=["dora", "some targets"]
)
def test_other_updates_are_left_to_the_parts(load, packed, lora):
    model = load(**lora)
    assert not decoder.runs(model.model)
    assert nodes(model.hidden(packed)) == 0


def test_merged_layers_are_left_to_the_parts(load, packed, parts):
    model = load()
    with torch.no_grad():
        want = model.hidden(packed)
        model.model.base_model.layers[0].mlp.down_proj.merge()
        assert not decoder.runs(model.model)
        close([model.hidden(packed)], [want], 1e-5)  # W + s B A is rounded to float32


def test_keeps_no_output_of_norms_and_mlp(load, packed, parts):
    """What the graph holds is no more than the parts hold that make these again."""
    model = load()

    def kept():
        storages = {}

        def keep(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            hidden = model.model.base_model(
                input_ids=packed.tokens[None],
                position_ids=packed.positions[None],
                use_cache=False,
                segments=packed.lengths,
                parents=packed.parents,
            ).last_hidden_state
        del hidden
        return sum(storages.values())

    rows, layers = len(packed.tokens), SIZES["num_hidden_layers"] - 1
    again = rows * (2 * SIZES["hidden_size"] + SIZES["intermediate_size"]) * 4 * layers
    assert kept() <= parts(kept) - again


def test_an_update_changed_before_the_backward_pass(load, packed):
    model = load()
    hidden = model.hidden(packed)
    with torch.no_grad():
        model.model.base_model.layers[1].mlp.down_proj.lora_b.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        hidden.sum().backward()


def test_no_gradient_of_a_gradient(load, packed):
    model = load()
    seen = []
    second = model.model.base_model.layers[1]
    second.register_forward_hook(lambda layer, args, output: seen.append(output))
    model.hidden(packed)
    parameter = second.mlp.down_proj.lora_b
    with pytest.raises(KernelError, match="decoder_layer: create_graph must be False"):
        torch.autograd.grad(seen[0].sum(), parameter, create_graph=True)
