"""What sequences begin with together is computed once, and nothing else changes."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from crucible_kitchen.adapters.local import batch as local_batch
from crucible_kitchen.adapters.local import packed as local_packed
from crucible_kitchen.adapters.local.attention import varlen_attention
from crucible_kitchen.adapters.local.model import CausalModel
from crucible_kitchen.adapters.local.packed import Packed
from crucible_kitchen.adapters.local.prefixes import tree_of

CPU = torch.device("cpu")
SYSTEM = list(range(3, 23))


def rebuilt(tree):
    """Each sequence as its path through the tree spells it."""
    return [tree.tokens[places].tolist() for places in tree.places]


def test_a_common_beginning_is_there_once():
    sequences = [[*SYSTEM, 50, 51], [7, 8], [*SYSTEM, 60], SYSTEM]
    tree = tree_of(sequences)
    assert rebuilt(tree) == sequences
    assert tree.lengths == (20, 2, 1, 2)
    assert tree.parents == (-1, 0, 0, -1)
    assert len(tree.tokens) == 25


def test_trees_have_branches_of_branches():
    prompt = [*SYSTEM, *range(100, 120)]
    sequences = [[*prompt, 1], [*prompt, 2], [*SYSTEM, *range(200, 230)], [*prompt, 1]]
    tree = tree_of(sequences)
    assert rebuilt(tree) == sequences
    assert tree.lengths == (20, 20, 1, 1, 1, 30)
    assert tree.parents == (-1, 0, 1, 1, 1, 0)


def test_short_beginnings_are_not_worth_it():
    sequences = [[1, 2, 3, 4], [1, 2, 3, 5]]
    assert tree_of(sequences).parents == (-1, -1)
    assert tree_of(sequences).tokens.tolist() == [1, 2, 3, 4, 1, 2, 3, 5]
    assert tree_of(sequences, at_least=3).lengths == (3, 1, 1)


@given(
    st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=8),
    st.integers(1, 4),
)
def test_every_tree_spells_its_sequences(sequences, at_least):
    tree = tree_of(sequences, at_least=at_least)
    assert rebuilt(tree) == sequences
    assert sum(tree.lengths) == len(tree.tokens) <= sum(map(len, sequences))
    for places in tree.places:
        assert tree.positions[places].tolist() == list(range(len(places)))
    assert all(parent < i for i, parent in enumerate(tree.parents))


def test_attention_along_a_tree_is_that_of_each_sequence():
    """Values and gradients, grouped heads, with a window that ends inside the parent too."""
    generator = torch.Generator().manual_seed(0)
    lengths, parents = (5, 3, 4, 2, 6), (-1, 0, 0, 2, -1)
    q, k, v = (
        torch.randn(1, heads, 20, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for heads in (4, 2, 2)
    )
    starts = [0, 5, 8, 12, 14]
    paths = {0: [0], 1: [0, 1], 2: [0, 2], 3: [0, 2, 3], 4: [4]}
    for window in (None, 4):
        got, _ = varlen_attention(
            torch.nn.Identity(),
            q, k, v, None, segments=lengths, parents=parents, sliding_window=window,
        )  # fmt: skip
        wanted = []
        for i, path in paths.items():
            rows = torch.cat([torch.arange(starts[s], starts[s] + lengths[s]) for s in path])
            alone, _ = varlen_attention(
                torch.nn.Identity(), *(t[:, :, rows] for t in (q, k, v)), None,
                sliding_window=window,
            )  # fmt: skip
            wanted.append(alone[:, -lengths[i] :])
        want = torch.cat(wanted, dim=1)
        torch.testing.assert_close(got, want)
        slope = torch.randn(want.shape, generator=generator, dtype=torch.float64)
        for one, other in zip(
            torch.autograd.grad(got, (q, k, v), slope),
            torch.autograd.grad(want, (q, k, v), slope),
            strict=True,
        ):
            torch.testing.assert_close(one, other)


def test_hidden_states_are_those_of_each_sequence_alone(tiny_folder):
    model = CausalModel.load(tiny_folder, dtype="float32", device="cpu")
    sequences = [[*SYSTEM, 50, 51], [7, 8], [*SYSTEM, 60], SYSTEM]
    packed = Packed.of(sequences, CPU)
    assert len(packed.tokens) == 25
    hidden = model.hidden(packed)
    for sequence, places in zip(sequences, packed.places, strict=True):
        alone = model.hidden(Packed.of([sequence], CPU))
        torch.testing.assert_close(hidden[places], alone, rtol=1e-4, atol=1e-5)


def preferences():
    """Pairs of answers to a prompt, as DPO has them; the prompt's last token is trained too."""
    datums = []
    for answer in ([40, 41, 42], [50, 51], [40, 41, 60]):
        tokens = [*SYSTEM, *answer]
        weights = [0.0] * (len(SYSTEM) - 1) + [1.0] * (len(answer) + 1)
        inputs = {"target_tokens": [*tokens[1:], 2], "weights": weights}
        datums.append({"model_input": tokens, "loss_fn_inputs": inputs})
    return datums


def count_tokens(monkeypatch, seen):
    """Note how many tokens each pass through a model has."""
    watched = CausalModel.hidden

    def hidden(self, packed, rows=None):
        seen.append(len(packed.tokens))
        return watched(self, packed, rows)

    monkeypatch.setattr(CausalModel, "hidden", hidden)


def test_training_is_the_same_with_fewer_tokens(start, local_client, monkeypatch):
    seen = []
    count_tokens(monkeypatch, seen)
    together, apart = start(seed=3), start(seed=3)
    for session in (together, apart):
        for parameter in local_client.trainer(session).parameters:
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(2))
    del seen[:]
    shared = local_client.forward_backward(together, preferences()).result()
    assert seen == [20 + 3 + 2 + 3]
    monkeypatch.setattr(local_packed, "tree_of", lambda s, at_least: tree_of(s, at_least=10**6))
    whole = local_client.forward_backward(apart, preferences()).result()
    assert seen[1] == 23 + 22 + 23
    assert abs(shared.loss - whole.loss) <= 1e-5 * abs(whole.loss)
    for one, other in zip(shared.loss_fn_outputs, whole.loss_fn_outputs, strict=True):
        torch.testing.assert_close(
            one["logprobs"].torch(), other["logprobs"].torch(), rtol=1e-4, atol=1e-5
        )
    pairs = zip(*(local_client.trainer(s).parameters for s in (together, apart)), strict=True)
    for one, other in pairs:
        assert (one.grad - other.grad).norm() <= 1e-4 * other.grad.norm()


def test_passes_on_the_cpu_are_shorter_unless_they_are_small_or_repeat_what_is_shared(
    start, local_client, datums, monkeypatch
):
    """Eight sequences of 57 tokens that share nothing; three of a common prompt."""
    seen, grads = [], []
    count_tokens(monkeypatch, seen)
    for enough in (512, 40, 18):
        monkeypatch.setitem(local_batch.ENOUGH, torch.float32, enough)
        session = start(seed=3)
        del seen[:]
        result = local_client.forward_backward(session, datums).result()
        grads.append([p.grad.clone() for p in local_client.trainer(session).parameters])
        # Two of 40 would be full to 57 / 80.
        assert seen == ([9 + 3, 17 + 1, 12 + 5, 8 + 2] if enough == 18 else [57])
        assert len(result.loss_fn_outputs) == len(datums)
        del seen[:]
        local_client.forward_backward(session, preferences()).result()
        assert seen == [20 + 3 + 2 + 3]
    for one, _, other in zip(*grads, strict=True):
        assert (one - other).norm() <= 2e-6 * other.norm()


def test_passes_of_a_bfloat16_model_are_longer(start, local_client, monkeypatch):
    count_tokens(monkeypatch, seen := [])
    rows = [[first] + [5] * 449 for first in range(3, 7)]
    datums = [{"model_input": row, "loss_fn_inputs": {"labels": row}} for row in rows]
    for dtype, passes in (("float32", [450] * 4), ("bfloat16", [1800])):
        session = start(dtype=dtype)
        del seen[:]
        local_client.forward_backward(session, datums).result()
        assert seen == passes
