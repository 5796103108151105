"""The protocol's binary messages: batches that come in, results that go out.

Fields that this server does not read are declared as `Unread`, and refused by their names.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from crucible_kitchen.errors import ConfigError, DataError
from crucible_kitchen.types import (
    Datum,
    ForwardBackwardResult,
    ModelInput,
    SampledSequence,
    TensorData,
)

MEDIA_TYPE: Final = "application/x-protobuf"
_DTYPES: Final = {1: "float32", 2: "int64", 3: "int32", 4: "bfloat16"}
_FLOAT32: Final = 1
# Token and log probability of a place where there are none.
_NOTHING: Final = (0, -99999.0)
_STOP_REASONS: Final = {"stop": 0, "length": 1}

# Message -> fields: name, number, type; `*` repeats, `{}` is a map from text, `?` knows whether it
# is there.
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "Unread": (),
    "Text": (("tokens", 1, "bytes"),),
    "Chunk": (("encoded_text", 1, "?Text"), ("image", 2, "?Unread"), ("dmel", 3, "?Unread")),
    "Tensor": (
        ("dense", 1, "?bytes"),
        ("sparse_csr", 2, "?Unread"),
        ("dtype", 3, "int32"),
        ("shape", 4, "*int64"),
    ),
    "Datum": (
        ("model_input", 1, "*Chunk"),
        ("loss_fn_inputs", 2, "{}Tensor"),
        ("model_input_spans", 3, "*Unread"),
        ("loss_fn_input_spans", 4, "*Unread"),
    ),
    "Setting": (("number", 1, "?double"), ("text", 2, "?string")),
    "Request": (
        ("model_id", 1, "string"),
        ("seq_id", 2, "int32"),
        ("data", 3, "*Datum"),
        ("loss_fn", 4, "string"),
        ("loss_fn_config", 5, "{}double"),
        ("forward_only", 6, "bool"),
        ("loss_fn_config_v2", 7, "{}Setting"),
    ),
    "Batched": (
        ("data", 1, "bytes"),
        ("offsets", 2, "bytes"),
        ("dtype", 3, "int32"),
        ("trailing_shape", 4, "*int64"),
    ),
    "Record": (
        ("type_tag", 1, "string"),
        ("fields", 2, "{}Batched"),
        ("num_datums", 3, "int64"),
    ),
    "Output": (
        ("loss_fn_output_type", 1, "string"),
        ("loss_fn_outputs", 2, "*Record"),
        ("metrics", 3, "{}double"),
    ),
    "Sequence": (("stop_reason", 1, "int32"), ("tokens", 2, "bytes"), ("logprobs", 3, "bytes")),
    "TopK": (
        ("token_ids", 1, "bytes"),
        ("logprobs", 2, "bytes"),
        ("k", 3, "int32"),
        ("length", 4, "int32"),
    ),
    "Samples": (
        ("sequences", 1, "*Sequence"),
        ("prompt_logprobs", 2, "?bytes"),
        ("topk_prompt_logprobs", 3, "?TopK"),
    ),
}


class Batch:
    """A request for a loss.

    Args:
        request: the decoded message.
        size: bytes that it came in.
    """

    def __init__(self, request: Any, size: int) -> None:
        self._request, self.size = request, size
        self.model_id: str = request.model_id
        self.seq_id: int = request.seq_id
        self.loss_fn: str = request.loss_fn
        self.forward_only: bool = request.forward_only

    def datums(self) -> list[Datum]:
        """The batch.

        Raises:
            DataError: one, named by its index, is malformed, or of a kind that is not served.
        """
        return [_datum(datum, index) for index, datum in enumerate(self._request.data)]

    def settings(self) -> dict[str, float]:
        """What the loss is told.

        Raises:
            DataError: one is no number.
        """
        settings = dict(self._request.loss_fn_config)
        for name, setting in self._request.loss_fn_config_v2.items():
            if not setting.HasField("number"):
                raise DataError(f"forward_backward: loss_fn_config[{name!r}] must be a number")
            settings[name] = setting.number
        return settings


def read_batch(body: bytes) -> Batch:
    """Decode the body of a ``forward_backward`` request.

    Raises:
        DataError: it is no such message.
    """
    request = _message("Request")()
    try:
        request.ParseFromString(body)
    except _decode_error() as error:
        raise DataError(f"forward_backward: the body must be a protobuf message: {error}") from None
    return Batch(request, len(body))


def write_result(result: ForwardBackwardResult) -> bytes:
    """Encode what `forward_backward` gave, as one record of all datums."""
    output = _message("Output")()
    output.loss_fn_output_type = "ArrayRecord"
    record = output.loss_fn_outputs.add()
    record.type_tag = "ArrayRecord"
    record.num_datums = len(result.loss_fn_outputs)
    for name in result.loss_fn_outputs[0] if result.loss_fn_outputs else ():
        arrays = [np.asarray(one[name].numpy(), np.float32) for one in result.loss_fn_outputs]
        ends = np.cumsum([0, *(array.nbytes for array in arrays)]).astype("<i8")
        field = record.fields[name]
        field.data = b"".join(array.astype("<f4").tobytes() for array in arrays)
        field.offsets = ends.tobytes()
        field.dtype = _FLOAT32
    for name, value in result.metrics.items():
        output.metrics[name] = value
    encoded: bytes = output.SerializeToString()
    return encoded


def write_samples(
    sequences: Sequence[SampledSequence],
    prompt_logprobs: Sequence[float | None] | None,
    topk: Sequence[Sequence[tuple[int, float]] | None] | None = None,
) -> bytes:
    """Encode samples, and the prompt's log probabilities where they were asked for."""
    samples = _message("Samples")()
    for one in sequences:
        sequence = samples.sequences.add()
        sequence.stop_reason = _STOP_REASONS[one.stop_reason]
        sequence.tokens = np.asarray(one.tokens, "<i4").tobytes()
        sequence.logprobs = np.asarray(one.logprobs, "<f4").tobytes()
    if prompt_logprobs is not None:
        values = [np.nan if value is None else value for value in prompt_logprobs]
        samples.prompt_logprobs = np.asarray(values, "<f4").tobytes()
    if topk is not None:
        k = max(len(place or ()) for place in topk)  # 0 where no place has another before it
        places = [place or [_NOTHING] * k for place in topk]
        table = samples.topk_prompt_logprobs
        table.k, table.length = k, len(places)
        table.token_ids = np.asarray([[t for t, _ in p] for p in places], "<i4").tobytes()
        table.logprobs = np.asarray([[lp for _, lp in p] for p in places], "<f4").tobytes()
    encoded: bytes = samples.SerializeToString()
    return encoded


def _datum(datum: Any, index: int) -> Datum:
    _refuse_unread(datum, index, "the datum")
    tokens: list[int] = []
    for chunk in datum.model_input:
        _refuse_unread(chunk, index, "model_input")
        tokens.extend(_numbers(chunk.encoded_text.tokens, "<i4", index).tolist())
    try:
        inputs = {name: _tensor(t, name, index) for name, t in datum.loss_fn_inputs.items()}
        return Datum(ModelInput.from_ints(tokens), inputs)
    except (TypeError, ValueError) as error:
        raise DataError(f"forward_backward: datums[{index}]: {error}") from None


def _tensor(tensor: Any, name: str, index: int) -> TensorData:
    _refuse_unread(tensor, index, name)
    if not tensor.HasField("dense") or tensor.dtype not in _DTYPES:
        raise DataError(
            f"forward_backward: datums[{index}]: {name} must be a dense tensor of float32, int64, "
            "int32 or bfloat16"
        )
    return TensorData(tensor.dense, _DTYPES[tensor.dtype], tuple(tensor.shape))


def _refuse_unread(message: Any, index: int, where: str) -> None:
    for field, _ in message.ListFields():
        if field.message_type is not None and field.message_type.name == "Unread":
            raise DataError(
                f"forward_backward: datums[{index}]: {where} must be without {field.name}, which "
                "this server does not support"
            )


def _numbers(data: bytes, dtype: str, index: int) -> Any:
    if len(data) % np.dtype(dtype).itemsize:
        raise DataError(
            f"forward_backward: datums[{index}]: tokens must be whole 32-bit numbers, got "
            f"{len(data)} bytes"
        )
    return np.frombuffer(data, dtype)


@cache
def _decode_error() -> type[Exception]:
    error: type[Exception] = _protobuf("message").DecodeError
    return error


@cache
def _message(name: str) -> Any:
    pool = _pool()
    return _protobuf("message_factory").GetMessageClass(pool.FindMessageTypeByName(f"wire.{name}"))


@cache
def _pool() -> Any:
    descriptors = _protobuf("descriptor_pb2")
    file = descriptors.FileDescriptorProto(name="wire.proto", package="wire", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _declare(descriptors.FieldDescriptorProto, message, name, *field)
    pool = _protobuf("descriptor_pool").DescriptorPool()
    pool.Add(file) if hasattr(pool, "Add") else pool.AddSerializedFile(file.SerializeToString())
    return pool


def _declare(kinds: Any, message: Any, owner: str, name: str, number: int, kind: str) -> None:
    """Add a field to a message's description."""
    field = message.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
    if kind.startswith("{}"):
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _declare(kinds, entry, owner, "key", 1, "string")
        _declare(kinds, entry, owner, "value", 2, kind[2:])
        field.label, field.type = kinds.LABEL_REPEATED, kinds.TYPE_MESSAGE
        field.type_name = f".wire.{owner}.{entry.name}"
        return
    if kind.startswith("*"):
        field.label, kind = kinds.LABEL_REPEATED, kind[1:]
    elif kind.startswith("?"):
        kind = kind[1:]
        if kind not in _MESSAGES:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
    if kind in _MESSAGES:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".wire.{kind}"
    else:
        field.type = getattr(kinds, f"TYPE_{kind.upper()}")


def _protobuf(module: str) -> Any:
    try:
        return importlib.import_module(f"google.protobuf.{module}")
    except ImportError as error:
        raise ConfigError(
            "serve: this needs protobuf, which cannot be imported; install it by: "
            "pip install 'crucible-kitchen[serve]'"
        ) from error
