"""Every field of the requests of the official SDK is honoured or refused by its name."""

from __future__ import annotations

import json

import pytest

from crucible_kitchen.serve import bodies

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")
pytest.importorskip("fastapi", reason="pip install 'crucible-kitchen[serve]'")

from tinker import types  # noqa: E402

from crucible_kitchen.serve import wire  # noqa: E402

HONOURED = {
    # What the server does because of it is shown by the tests of `test_tinker` and `test_server`.
    types.CreateSessionRequest: (bodies.CreateSession, set()),
    types.SessionHeartbeatRequest: (bodies.OfSession, set()),
    types.CreateModelRequest: (bodies.CreateModel, set()),
    types.LoraConfig: (bodies.Lora, set()),
    types.AdamParams: (bodies.Adam, set()),
    types.LoadWeightsRequest: (bodies.LoadWeights, {"weights_access_token"}),
    types.SaveWeightsRequest: (bodies.SaveWeights, set()),
    types.SaveWeightsForSamplerRequest: (bodies.SaveForSampler, set()),
    types.CreateSamplingSessionRequest: (bodies.CreateSampling, set()),
    types.SamplingParams: (bodies.Params, set()),
    types.SampleRequest: (
        bodies.Sample,
        {
            "topk_sample_logprobs",
            "target_prompt_logprobs",
            "prompt_alt_tokens_k",
            "record_stability_info",
        },
    ),
    types.FutureRetrieveRequest: (bodies.Retrieve, set()),
}


def _fields(kind):
    fields = getattr(kind, "model_fields", None) or kind.__dataclass_fields__
    return set(fields) - {"type"}


@pytest.mark.parametrize("kind", list(HONOURED), ids=lambda kind: kind.__name__)
def test_a_request_of_the_sdk_has_no_field_that_is_passed_over(kind):
    body, refused = HONOURED[kind]
    declared = set(body.model_fields)
    assert _fields(kind) - declared == refused
    for name in sorted(refused):
        with pytest.raises(ValueError, match=f"does not support {name}"):
            body._knows_what_is_asked(body.model_construct(**{name: 3}))


def test_a_field_that_is_refused_may_say_that_it_is_not_used():
    unused = {"topk_sample_logprobs": 0, "record_stability_info": False, "prompt_alt_tokens_k": 0}
    body = bodies.Sample(prompt={}, sampling_params={}, **unused, target_prompt_logprobs=None)
    assert body.num_samples == 1


def test_every_field_of_a_batch_is_declared_or_refused():
    """The binary request: what is not declared is text that nobody reads, and is named."""
    from tinker.proto import tinker_public_pb2 as theirs

    ours = wire._pool()
    for name, own, refused in (
        ("ForwardBackwardRequest", "Request", set()),
        ("Datum", "Datum", {"model_input_spans", "loss_fn_input_spans"}),
        ("Chunk", "Chunk", {"image", "dmel"}),
        ("Tensor", "Tensor", {"sparse_csr"}),
    ):
        fields = {field.name for field in theirs.DESCRIPTOR.message_types_by_name[name].fields}
        known = {field.name for field in ours.FindMessageTypeByName(f"wire.{own}").fields}
        assert known - fields == set()
        assert fields - known <= refused, name


def test_an_optimizer_that_is_not_served_is_refused_by_name():
    with pytest.raises(ValueError, match="adamw"):
        bodies.CreateModel(
            session_id="s", model_seq_id=0, base_model="m", optimizer_config={"type": "dimuon"}
        )
    dimuon = json.loads('{"learning_rate": 1e-3, "type": "dimuon"}')
    with pytest.raises(ValueError, match="does not support optimizer_params"):
        bodies.OptimStep(model_id="m", seq_id=1, optimizer_params=dimuon)
