"""Sessions whose frozen weights lie in parts in two processes train what one process trains."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file
from torch import nn
from torch.distributed.tensor import DTensor

from crucible_kitchen.adapters.local import SamplingClient, TrainingClient
from crucible_kitchen.ops import _lora_linear_cpu as panels
from crucible_kitchen.testing.tiny_model import tiny_llama

FIELDS = {"dtype": "float32", "lora_rank": 4, "fsdp": True}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "an untied head": {"model": "untied"},
    "a trained head": {"lora_targets": ["q_proj", "head"]},
    "a trained head that is not tied": {"model": "untied", "lora_targets": ["q_proj", "head"]},
    "the last layer alone": {"lora_targets": ["model.layers.1.mlp.up_proj"]},
    "activations computed again": {"gradient_checkpointing": True},
    "dora": {"dora": True},
    "scores": {"head": "scalar"},
}


def row(tokens: list[int], weight: float = 1.0) -> dict[str, Any]:
    inputs = {"target_tokens": [*tokens[1:], 7], "weights": [weight] * len(tokens)}
    return {"model_input": tokens, "loss_fn_inputs": inputs}


def rows() -> list[dict[str, Any]]:
    """Of many lengths, so that the two shares need different numbers of passes."""
    generator = torch.Generator().manual_seed(11)
    lengths = (9, 3, 17, 1, 12, 5, 8, 2)
    return [row(torch.randint(3, 300, (n,), generator=generator).tolist()) for n in lengths]


def of_the_first(datums: Any, values: Any) -> Any:
    """A loss that one process alone has a part in."""
    return -values[0].sum(), {}


class Case:
    """What is done with a session, and what it gave."""

    def __init__(self, client: TrainingClient, fields: dict[str, Any]) -> None:
        self.client, self.session = client, client.start_session(fields)
        self.given: dict[str, Any] = {}

    def step(self) -> float:
        return self.client.optim_step(self.session, {"learning_rate": 1e-3}).result().grad_norm

    def run(self, folder: Path) -> dict[str, Any]:
        (self.score if self.session.config.head == "scalar" else self.predict)()
        self.custom()
        saved = self.client.save_checkpoint(self.session, str(folder)).result()
        again = self.client.start_session(self.session.config)
        self.client.load_checkpoint(again, saved)
        trainer, loaded = (self.client.trainer(s) for s in (self.session, again))
        for mine, other in zip(trainer.parameters, loaded.parameters, strict=True):
            assert torch.equal(mine, other)
        return self.given | {"weights": load_file(folder / "adapter_model.safetensors")}

    def predict(self) -> None:
        client, session, data = self.client, self.session, rows()
        for batch in (data, data[:1], data):
            result = client.forward_backward(session, batch).result()
            self.given.setdefault("losses", []).append(result.loss)
            self.step()
        client.forward_backward(session, [row([3, 4, 5], 0.0)]).result()
        assert self.step() == 0.0, "nothing was trained"
        self.given["seen"] = client.forward(session, data).result().loss
        drawing = SamplingClient(training_client=client)
        other = drawing.start_session({"model": session.config.model})
        rank = int(os.environ.get("RANK", "0"))
        # Of other lengths in each process: nobody may wait for the other for ever.
        params = {"max_tokens": 3 + 4 * rank, "temperature": 0.0, "stop": ()}
        [drawn] = drawing.sample(other, [5, 6, 7], 1, params).result()
        self.given["sample"] = drawn.tokens[:3]
        self.given["logprobs"] = drawing.compute_logprobs(other, [5, 6, 7]).result()
        self.given["likeliest"] = drawing.compute_topk_logprobs(other, [5, 6, 7], 2).result()

    def score(self) -> None:
        self.given["scores"] = self.client.score(self.session, rows()).result()

    def custom(self) -> None:
        with pytest.raises(TypeError, match="must give a scalar tensor"):
            self.client.forward_backward_custom(
                self.session, rows(), lambda datums, values: (0.0, {})
            ).result()
        for batch in (rows(), rows()[:2]):
            self.client.forward_backward_custom(self.session, batch, of_the_first).result()
            self.given["norm"] = self.step()


def in_case(case: str, models: dict[str, str], folder: Path) -> dict[str, Any]:
    fields = {**FIELDS, **CASES[case]}
    client = TrainingClient(device="cpu", tokens_per_pass=20)
    try:
        made = Case(client, {**fields, "model": models[fields.get("model", "tied")]})
        given = made.run(folder / case.replace(" ", "-"))
        model = client.trainer(made.session).model.model
        return given | {"memory": memory(model)}
    finally:
        client.close()


def memory(model: nn.Module) -> dict[str, int]:
    """Bytes that this process has: of frozen weights, of one layer's, of what kernels packed."""
    frozen = [weight for weight in model.parameters() if not weight.requires_grad]
    layer = [weight for weight in model.model.layers[0].parameters() if not weight.requires_grad]
    kept = [*panels._FOR_FORWARD.values(), *panels._FOR_BACKWARD.values()]
    return {
        "frozen": sum((w.to_local() if isinstance(w, DTensor) else w).nbytes for w in frozen),
        "layer": sum(weight.numel() * weight.element_size() for weight in layer),
        "packed": sum(packed.panels.nbytes for packed in kept),
    }


def in_process(rank: int, models: dict[str, str], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    own = Path(folder) / str(rank)
    own.mkdir()
    torch.save({case: in_case(case, models, own) for case in CASES}, own / "given.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    tied = tiny_llama(folder / "tied")
    model = AutoModelForCausalLM.from_pretrained(tied, dtype=torch.float32)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 1.25)
    shutil.copytree(tied, folder / "untied")
    model.save_pretrained(folder / "untied")
    return {"tied": tied, "untied": str(folder / "untied")}


@pytest.fixture(scope="module")
def by_two(
    models: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """What every case gave in each of two processes."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        # The processes find this module as pytest calls it, from the root of the repository.
        patch.syspath_prepend(str(Path(__file__).parents[2]))
        mp.spawn(in_process, args=(models, str(folder)), nprocs=2, join=True)
    return [torch.load(folder / str(rank) / "given.pt") for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_what_one_gives(
    case: str, models: dict[str, str], by_two: list[dict[str, Any]], tmp_path: Path
) -> None:
    want = in_case(case, models, tmp_path)
    for given in by_two:
        got = given[case]
        assert got.keys() == want.keys()
        for name in got.keys() - {"weights", "memory"}:
            assert got[name] == approx(want[name]), name
        for name, weight in want["weights"].items():
            error = (got["weights"][name] - weight).norm()
            assert error <= 1e-6 * max(1.0, float(weight.norm())), name


@pytest.mark.parametrize("case", ["plain", "an untied head"])
def test_each_process_keeps_its_part_and_nothing_packed(
    case: str, models: dict[str, str], by_two: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = in_case(case, models, tmp_path)["memory"]
    parts = [given[case]["memory"] for given in by_two]
    assert sum(part["frozen"] for part in parts) == whole["frozen"]
    for part in parts:
        assert part["frozen"] == pytest.approx(whole["frozen"] / 2, rel=0.01)
        # Until the next is packed, those of the layer that ran last stay, for both directions.
        assert part["packed"] <= 2.5 * part["layer"]
    assert whole["packed"] > 3 * whole["layer"], "all layers', for both directions"


def approx(value: Any) -> Any:
    """Equal within float32's rounding, wherever numbers are in lists."""
    if isinstance(value, (list, tuple)):
        return type(value)(approx(item) for item in value)
    return pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float) else value
