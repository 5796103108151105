"""Each public method of the official SDK does what its column of the page's table says."""

from __future__ import annotations

import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serve.md"

# The SDK closes sockets when its loop ends, and warns of methods that it will take away.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not tinker.__version__.startswith("0.38."), reason="the page is about 0.38"),
]

PROMPT, FEW = tinker.ModelInput.from_ints([5, 6]), tinker.SamplingParams(max_tokens=2)
DATA = [
    tinker.Datum(
        model_input=PROMPT, loss_fn_inputs={"target_tokens": [6, 7], "weights": [1.0, 1.0]}
    )
]
DAY = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)
# Of what a custom loss of the SDK's own reads.
RANKS = {"logprobs": 1, "weights": 1}


def per_datum(logprobs, weights):
    return -(logprobs * weights).sum(), {}


def whole(data, logprobs):
    return -sum(one.sum() for one in logprobs), {}


# Each is given a `SimpleNamespace`: clients, and the paths of checkpoints that are there.
CALLS = {
    "ServiceClient": {
        "close": lambda at: at.connect().close("success"),
        "copy_weights": lambda at: at.service.copy_weights(at.path),
        "create_custom_loss": lambda at: at.training.forward_backward_custom(
            DATA, at.service.create_custom_loss(per_datum, RANKS).result()
        ),
        "create_lora_training_client": lambda at: at.service.create_lora_training_client(at.model),
        "create_rest_client": lambda at: at.service.create_rest_client(),
        "create_sampling_client": lambda at: at.service.create_sampling_client(at.path),
        "create_training_client_from_state": lambda at: (
            at.service.create_training_client_from_state(at.path)
        ),
        "create_training_client_from_state_with_optimizer": lambda at: (
            at.service.create_training_client_from_state_with_optimizer(at.path)
        ),
        "get_console_url": lambda at: at.service.get_console_url(),
        "get_server_capabilities": lambda at: at.service.get_server_capabilities(),
        "get_telemetry": lambda at: at.service.get_telemetry(),
    },
    "TrainingClient": {
        "create_sampling_client": lambda at: at.training.create_sampling_client(at.path),
        "forward": lambda at: at.training.forward(DATA, "cross_entropy"),
        "forward_backward": lambda at: at.training.forward_backward(DATA, "cross_entropy"),
        "forward_backward_custom": lambda at: at.training.forward_backward_custom(DATA, whole),
        "get_console_url": lambda at: at.training.get_console_url(),
        "get_info": lambda at: at.training.get_info(),
        "get_telemetry": lambda at: at.training.get_telemetry(),
        "get_tokenizer": lambda at: at.training.get_tokenizer(),
        "load_state": lambda at: at.training.load_state(at.path),
        "load_state_with_optimizer": lambda at: at.training.load_state_with_optimizer(at.path),
        "optim_step": lambda at: at.training.optim_step(tinker.AdamParams()),
        "save_state": lambda at: at.training.save_state("again"),
        "save_weights_and_get_sampling_client": lambda at: (
            at.training.save_weights_and_get_sampling_client()
        ),
        "save_weights_external": lambda at: at.training.save_weights_external("x"),
        "save_weights_for_sampler": lambda at: at.training.save_weights_for_sampler("again"),
    },
    "SamplingClient": {
        "compute_logprobs": lambda at: at.sampler.compute_logprobs(PROMPT),
        "create": lambda at: tinker.SamplingClient.create(at.sampler.holder, base_model=at.model),
        "from_sampler_handle": lambda at: tinker.SamplingClient.from_sampler_handle(
            at.sampler.get_sampler_handle()
        ).sample(PROMPT, 1, FEW),
        "get_base_model": lambda at: at.sampler.get_base_model(),
        "get_sampler_handle": lambda at: at.sampler.get_sampler_handle(),
        "get_telemetry": lambda at: at.sampler.get_telemetry(),
        "get_tokenizer": lambda at: at.sampler.get_tokenizer(),
        "on_queue_state_change": lambda at: at.sampler.on_queue_state_change,
        "sample": lambda at: at.sampler.sample(PROMPT, 1, FEW),
    },
    "RestClient": {
        "assign_session_project": lambda at: at.rest.assign_session_project(at.session, "p"),
        "copy_weights": lambda at: at.rest.copy_weights(at.path, "p"),
        "delete_checkpoint": lambda at: at.rest.delete_checkpoint(at.run, "weights/gone-1"),
        "delete_checkpoint_from_tinker_path": lambda at: at.rest.delete_checkpoint_from_tinker_path(
            f"tinker://{at.run}/weights/gone-2"
        ),
        "export_session_trace": lambda at: at.rest.export_session_trace(at.session),
        "get_audit_log": lambda at: at.rest.get_audit_log(),
        "get_billing_usage": lambda at: at.rest.get_billing_usage(DAY, DAY),
        "get_current_checkpoint_storage_usage": lambda at: (
            at.rest.get_current_checkpoint_storage_usage()
        ),
        "get_external_weights_urls": lambda at: at.rest.get_external_weights_urls(
            f"tinker://{at.run}/external_weights/out"
        ),
        "get_sampler": lambda at: at.rest.get_sampler(at.sampler._sampling_session_id),
        "get_server_capabilities": lambda at: at.rest.get_server_capabilities(),
        "get_session": lambda at: at.rest.get_session(at.session),
        "get_telemetry": lambda at: at.rest.get_telemetry(),
        "get_training_run": lambda at: at.rest.get_training_run(at.run),
        "get_training_run_by_tinker_path": lambda at: at.rest.get_training_run_by_tinker_path(
            at.path
        ),
        "get_weights_info_by_tinker_path": lambda at: at.rest.get_weights_info_by_tinker_path(
            at.path
        ),
        "list_checkpoints": lambda at: at.rest.list_checkpoints(at.run),
        "list_sessions": lambda at: at.rest.list_sessions(),
        "list_training_runs": lambda at: at.rest.list_training_runs(),
        "list_user_checkpoints": lambda at: at.rest.list_user_checkpoints(),
        "publish_checkpoint_from_tinker_path": lambda at: (
            at.rest.publish_checkpoint_from_tinker_path(at.path)
        ),
        "search_sessions": lambda at: at.rest.search_sessions(tinker.types.SessionSearchRequest()),
        "set_checkpoint_ttl_from_tinker_path": lambda at: (
            at.rest.set_checkpoint_ttl_from_tinker_path(at.path, 3600)
        ),
        "unpublish_checkpoint_from_tinker_path": lambda at: (
            at.rest.unpublish_checkpoint_from_tinker_path(at.path)
        ),
        "whoami": lambda at: at.rest.whoami(),
    },
}


def row(name, refused):
    """The line of the page's table for a class: methods that answer, then those that do not."""
    cells = (
        ", ".join(f"`{method}`" for method in sorted(CALLS[name]) if (method in refused) == column)
        for column in (False, True)
    )
    return f"| `{name}` | {' | '.join(cells)} |".replace("|  |", "| |")


@pytest.fixture(scope="module")
def at(server):
    def connect():
        return tinker.ServiceClient(base_url=server.url, api_key=server.key, project_id="p")

    service = connect()
    training = service.create_lora_training_client(server.model, rank=4).result()
    for name in ("kept", "gone-1", "gone-2"):
        path = training.save_state(name).result().path
    training.save_weights_external("out").result()
    yield SimpleNamespace(
        connect=connect,
        model=server.model,
        service=service,
        training=training,
        sampler=service.create_sampling_client(base_model=server.model).result(),
        rest=tinker.RestClient(base_url=server.url, api_key=server.key),
        run=training.model_id,
        session=training.model_id.partition(":")[0],
        path=path.replace("gone-2", "kept"),
    )
    service.close("success").result()


@pytest.mark.parametrize("name", list(CALLS))
def test_the_table_of_the_page_is_what_each_call_comes_to(at, name, monkeypatch):
    monkeypatch.setenv("TINKER_API_KEY", "tml-any")  # a handle does not carry one
    public = {
        one
        for one in dir(getattr(tinker, name))
        if one[0] != "_"
        and not one.endswith("_async")
        and callable(getattr(getattr(tinker, name), one, None))
    }
    assert public == set(CALLS[name])
    wrong = {}
    for method, call in CALLS[name].items():
        try:
            answer = call(at)
            if hasattr(answer, "result"):
                answer.result(timeout=60)
        except (tinker.TinkerError, ValueError, RuntimeError) as error:
            wrong[method] = error
    made = row(name, wrong)
    assert made in PAGE.read_text().splitlines(), f"the page's line must be\n{made}\n{wrong}"
