"""The small values: parameters, results, messages."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

from crucible_kitchen.types import (
    AdamParams,
    ForwardBackwardResult,
    Message,
    MetricPoint,
    OptimStepResult,
    SampledSequence,
    SamplingParams,
    TensorData,
    ToolCall,
)


def test_adam_has_the_interfaces_defaults() -> None:
    assert AdamParams() == AdamParams(1e-4, 0.9, 0.95, 1e-12, 0.0, 0.0)
    assert AdamParams.coerce(0.5) == AdamParams.coerce({"learning_rate": 0.5})
    assert AdamParams.coerce(1).learning_rate == 1.0


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"learning_rate": -1}, ValueError, "learning_rate must be a finite number of at least 0"),
        ({"learning_rate": math.nan}, ValueError, "nan"),
        ({"learning_rate": "1e-4"}, TypeError, "'1e-4'"),
        ({"beta1": 1.0}, ValueError, "beta1"),
        ({"eps": 0}, ValueError, "eps"),
        ({"grad_clip_norm": math.inf}, ValueError, "grad_clip_norm"),
        ({"lr": 1}, ValueError, "lr"),
    ],
)
def test_adam_refuses(fields: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        AdamParams.coerce(fields)


def test_sampling_params_keep_stops_as_a_tuple() -> None:
    assert SamplingParams(5, stop="\n").stop == ("\n",)
    assert SamplingParams(5, stop=["a", "b"]).stop == ("a", "b")
    assert SamplingParams(5, stop=[1, 2]).stop == (1, 2)
    assert SamplingParams(5, stop=[]).stop == ()
    assert SamplingParams(5) == SamplingParams(5, 1.0, -1, 1.0, None, None)


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({}, ValueError, "max_tokens must be given"),
        ({"max_tokens": 0}, ValueError, "max_tokens"),
        ({"max_tokens": 1.5}, TypeError, "max_tokens"),
        ({"max_tokens": True}, TypeError, "max_tokens"),
        ({"max_tokens": 1, "top_p": 0}, ValueError, "top_p"),
        ({"max_tokens": 1, "top_k": 0}, ValueError, "top_k"),
        ({"max_tokens": 1, "temperature": -1}, ValueError, "temperature"),
        ({"max_tokens": 1, "stop": ["a", 1]}, TypeError, "stop"),
        ({"max_tokens": 1, "stop": [""]}, TypeError, "stop"),
        ({"max_tokens": 1, "temprature": 1}, ValueError, "did you mean 'temperature'"),
    ],
)
def test_sampling_params_refuse(fields: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        SamplingParams.coerce(fields)


def test_results_are_read_by_attribute_and_by_item() -> None:
    result = ForwardBackwardResult(2, ({"logprobs": [-1.0]},), {"loss:sum": 4})  # type: ignore[dict-item]
    assert result.loss == result["loss"] == 2.0
    assert result["loss_fn_outputs"][0]["logprobs"] == TensorData([-1.0])
    assert result["metrics"]["loss:sum"] == 4.0
    with pytest.raises(KeyError):
        result["from_dict"]
    assert OptimStepResult(1, 0.5, 1e-4)["step"] == 1


def test_a_sample_has_a_logprob_per_token() -> None:
    with pytest.raises(ValueError, match="2, got 1"):
        SampledSequence([1, 2], [-0.5])
    with pytest.raises(ValueError, match="'eos'"):
        SampledSequence([1], [-0.5], "eos")  # type: ignore[arg-type]


def test_a_metric_point_is_its_fields() -> None:
    point = MetricPoint("run", "loss", 0.5, 3)
    assert MetricPoint.from_dict(json.loads(json.dumps(point.to_dict()))) == point


def test_messages_take_the_shapes_of_the_field() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert Message.coerce({"role": "user", "content": parts}).content == "ab"
    call = {
        "id": "call-1",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a": 1}'},
    }
    message = Message.coerce({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.content == ""
    assert message.tool_calls == (ToolCall("add", {"a": 1}, "call-1"),)
    assert message.to_dict()["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1}}
    assert Message.coerce(message.to_dict()) == message
    assert Message("user", "hi").to_dict() == {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": "b", "refusal": None, "reasoning_content": "so b"}
    assert Message.coerce(answer) == Message("assistant", "b", thinking="so b")


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"role": "human", "content": "x"}, ValueError, "assistant.*'human'"),
        ({"role": "user", "content": 3}, TypeError, "got int"),
        ({"role": "user", "content": [{"type": "image"}]}, TypeError, "text parts"),
        ({"content": "x"}, ValueError, "role must be given"),
        ({"role": "user", "contents": "x"}, ValueError, "did you mean 'content'"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]},
            ValueError,
            "JSON",
        ),
        ("hi", TypeError, "'hi'"),
    ],
)
def test_messages_refuse(fields: Any, error: Any, says: str) -> None:
    with pytest.raises(error, match=says):
        Message.coerce(fields)


def test_importing_types_and_ports_loads_no_torch_and_no_pytest() -> None:
    code = (
        "import sys; import crucible_kitchen.ports, crucible_kitchen.adapters.noop\n"
        "loaded = {'torch', 'triton', 'transformers', 'pytest', 'pyarrow'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
