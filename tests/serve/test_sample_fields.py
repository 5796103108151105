"""Every field of the SDK's requests for samples has an effect, or is refused by its name."""

from __future__ import annotations

import math

import numpy as np
import pytest

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")

from tinker import types  # noqa: E402

KINDS = (types.SampleRequest, types.SamplingParams, types.FutureRetrieveRequest)


def test_a_field_that_is_refused_may_say_that_it_is_not_used(door):
    unused = {"topk_sample_logprobs": 0, "record_stability_info": False, "prompt_alt_tokens_k": 0}
    assert len(door.sample(**unused, target_prompt_logprobs=None).sequences) == 1


def prompts(door):
    drawn = door.sample(num_samples=3, params={"max_tokens": 5}, prompt_logprobs=True)
    assert [len(one.tokens) // 4 for one in drawn.sequences] == [5, 5, 5]
    scores = np.frombuffer(drawn.prompt_logprobs, "<f4")
    assert math.isnan(scores[0])
    assert len(scores) == 3
    other = door.sample(prompt=(9, 6, 7), prompt_logprobs=True)
    assert np.frombuffer(other.prompt_logprobs, "<f4")[1] != scores[1]
    assert not door.sample().HasField("prompt_logprobs")
    for naming, wrong in (
        ("num_samples", {"num_samples": 0}),
        ("max_tokens", {"params": {"max_tokens": 0}}),
        ("prompt must hold at least one token", {"prompt": ()}),
        ("prompt with max_tokens", {"params": {"max_tokens": 10**6}}),
    ):
        door.refused("asample", naming, **door.sampling(**wrong))
    image = {"chunks": [{"type": "image", "data": "aGk=", "format": "png"}]}
    door.refused("asample", "image", **{**door.sampling(), "prompt": image})


def sources(door):
    model = door.model()
    for _ in range(3):
        door.loss(model)
        door.of("optim_step", model, adam_params={"learning_rate": 1e-2})
    made = door.of("save_weights_for_sampler", model, path="trained")
    sampler = door.post(
        "create_sampling_session",
        session_id=door.session,
        sampling_session_seq_id=50,
        model_path=made["path"],
    )["sampling_session_id"]
    asked = {"prompt": tuple(range(5, 13)), "prompt_logprobs": True}
    sources = ({}, {"model_path": made["path"]}, {"sampling_session_id": sampler})
    base, by_path, by_id = (door.sample(**asked, **s).prompt_logprobs for s in sources)
    assert base != by_path == by_id
    numbered = door.sampling(sampling_session_id=sampler, seq_id=0)
    assert door.post("asample", **numbered) == door.post("asample", **numbered)
    both = {**numbered, "model_path": made["path"]}
    door.refused("asample", "model_path", **both)
    door.refused("asample", "base_model", **{**door.sampling(), "base_model": "x"})
    wrong = {**door.sampling(model_path=made["path"]), "base_model": "x"}
    door.refused("asample", "base_model", **wrong)
    door.refused(
        "asample", "no sampling", [404], **door.sampling(sampling_session_id=sampler + "x")
    )


def likeliest_tokens(door):
    asked = {"prompt_logprobs": True, "topk_prompt_logprobs": 2}
    best = door.sample(**asked).topk_prompt_logprobs
    assert (best.k, best.length) == (2, 3)
    last = door.sample(**asked, prompt_logprobs_last_n=1)
    silent = np.isnan(np.frombuffer(last.prompt_logprobs, "<f4")).tolist()
    assert silent == [True, True, False]
    door.refused("asample", "topk_prompt_logprobs", **door.sampling(topk_prompt_logprobs=-1))
    for wrong in ({"prompt_logprobs_last_n": 1}, {**asked, "prompt_logprobs_last_n": 3}):
        door.refused("asample", "prompt_logprobs_last_n", **door.sampling(**wrong))


def what_is_not_given_of_samples(door):
    targets = {"data": [1, 2], "dtype": "int64", "shape": [2, 1]}
    for name, value in (
        ("topk_sample_logprobs", 2),
        ("target_prompt_logprobs", targets),
        ("prompt_alt_tokens_k", 1),
        ("record_stability_info", True),
    ):
        door.refused("asample", f"does not support {name}", **door.sampling(**{name: value}))


def drawing(door):
    free = door.tokens()
    assert free == door.tokens() != door.tokens(seed=4)
    likeliest = door.tokens(temperature=0.0)
    assert free != likeliest == door.tokens(top_k=1) == door.tokens(top_p=1e-6)
    assert likeliest == door.tokens(temperature=0.0, seed=9)
    for name, wrong in (("seed", 2**64), ("temperature", -1), ("top_k", 0), ("top_p", 1.5)):
        door.refused("asample", name, **door.sampling(params={name: wrong}))


def stops(door):
    free = door.tokens()
    assert door.tokens(stop=[free[2]]) == free[: free.index(free[2]) + 1]
    text = {"model_id": door.model()}
    assert door.post("get_info", **text)["model_data"]["tokenizer_id"]
    assert len(door.tokens(stop=[])) == 8
    door.refused("asample", "stop", **door.sampling(params={"stop": [""]}))


def results(door):
    asked = door.post("asample", **door.sampling())
    whole = [
        door.ask("retrieve_future", request_id=asked["request_id"], allow_metadata_only=only)
        for only in (True, False)
    ]
    assert whole[0].content == whole[1].content  # a server may leave out the payload, this never
    door.refused("retrieve_future", "no request", [404], request_id="x")


# What is checked: of each kind of request, the fields that the check shows.
SHOWN = {
    prompts: {
        "SampleRequest": "num_samples prompt sampling_params prompt_logprobs",
        "SamplingParams": "max_tokens",
    },
    sources: {
        "SampleRequest": "base_model model_path sampling_session_id seq_id",
    },
    likeliest_tokens: {
        "SampleRequest": "topk_prompt_logprobs prompt_logprobs_last_n",
    },
    what_is_not_given_of_samples: {
        "SampleRequest": "topk_sample_logprobs target_prompt_logprobs prompt_alt_tokens_k "
        "record_stability_info",
    },
    drawing: {
        "SamplingParams": "seed temperature top_k top_p",
    },
    stops: {
        "SamplingParams": "stop",
    },
    results: {
        "FutureRetrieveRequest": "request_id allow_metadata_only",
    },
}


@pytest.mark.parametrize("check", SHOWN, ids=lambda check: check.__name__)
def test_fields_have_an_effect_or_are_refused_by_their_names(door, check):
    check(door)


def test_every_field_of_the_sdk_is_shown(fields_of):
    shown = [f"{kind}.{name}" for of in SHOWN.values() for kind in of for name in of[kind].split()]
    assert sorted(shown) == sorted(fields_of(KINDS))
