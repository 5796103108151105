"""Adapters made of adapters: trying again, writing down, saying again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crucible_kitchen.adapters import noop
from crucible_kitchen.adapters.compose import recording, replaying, retrying
from crucible_kitchen.adapters.compose.codec import Codec
from crucible_kitchen.adapters.compose.retrying import SAFE
from crucible_kitchen.adapters.compose.wrap import methods_of
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.graph import Retry
from crucible_kitchen.ports import PORTS, Future, SessionConfig
from crucible_kitchen.testing import (
    BlobStoreContract,
    CompleterContract,
    DatasetStoreContract,
    MetricsStoreContract,
    SamplingClientContract,
    TrainingClientContract,
)
from crucible_kitchen.types import Completion, Datum, Message, SamplingParams, TensorData, Usage

AT_ONCE = Retry(attempts=3, on=PortError)


class TestRetryingTrainingClient(TrainingClientContract):
    @pytest.fixture
    def adapter(self) -> Iterator[Any]:
        client = retrying(noop.TrainingClient())
        yield client
        client.close()


class TestRetryingSamplingClient(SamplingClientContract):
    @pytest.fixture
    def adapter(self) -> Iterator[Any]:
        client = retrying(noop.SamplingClient())
        yield client
        client.close()


class TestRecordingCompleter(CompleterContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[Any]:
        completer = recording(noop.Completer(), tmp_path / "tape.jsonl")
        yield completer
        completer.close()


class TestRecordingDatasetStore(DatasetStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[Any]:
        store = recording(noop.DatasetStore(), tmp_path / "tape.jsonl")
        yield store
        store.close()


class TestRecordingBlobStore(BlobStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[Any]:
        store = recording(noop.BlobStore(), tmp_path / "tape.jsonl")
        yield store
        store.close()


class TestBothOverAMetricsStore(MetricsStoreContract):
    @pytest.fixture
    def adapter(self, tmp_path: Path) -> Iterator[Any]:
        store = retrying(recording(noop.MetricsStore(), tmp_path / "tape.jsonl"))
        yield store
        store.close()


def test_safe_methods_are_methods() -> None:
    assert set(SAFE) == set(PORTS)
    for name, methods in SAFE.items():
        assert set(methods) <= set(methods_of(PORTS[name]))


class Failing(noop.BlobStore):
    """Fails as often as it is told to."""

    def __init__(self, times: int, error: Exception) -> None:
        super().__init__()
        self.times, self.error, self.calls = times, error, 0

    def _attempt(self) -> None:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error

    def exists(self, path: str) -> bool:
        self._attempt()
        return super().exists(path)

    def write(self, path: str, data: Any) -> None:
        self._attempt()
        super().write(path, data)


@pytest.mark.parametrize(("times", "calls"), [(0, 1), (1, 2), (2, 3)])
def test_it_tries_until_it_works(times: int, calls: int) -> None:
    store = Failing(times, PortError("busy"))
    assert retrying(store, AT_ONCE).exists("x") is False
    assert store.calls == calls


def test_the_last_error_comes_as_it_is_and_other_errors_at_once() -> None:
    error = PortError("busy")
    store = Failing(9, error)
    with pytest.raises(PortError) as caught:
        retrying(store, AT_ONCE).exists("x")
    assert caught.value is error
    assert store.calls == 3
    store = Failing(9, ConfigError("wrong"))
    with pytest.raises(ConfigError):
        retrying(store, AT_ONCE).exists("x")
    assert store.calls == 1


def test_it_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    store = retrying(Failing(3, PortError("busy")), Retry(4, 0.5, on=PortError, jitter=0.0))
    store.exists("x")
    assert waits == [0.5, 1.0, 2.0]


def test_an_iterator_is_not_used_up_twice() -> None:
    store = Failing(1, PortError("busy"))
    with pytest.raises(PortError):
        retrying(store, AT_ONCE).write("x", iter([b"a"]))
    assert store.calls == 1
    retrying(store, AT_ONCE).write("x", b"a")


def test_only_chosen_methods_are_tried_again() -> None:
    store = Failing(1, PortError("busy"))
    with pytest.raises(PortError):
        retrying(store, AT_ONCE, methods=["read"]).exists("x")
    with pytest.raises(ConfigError, match="did you mean 'read'"):
        retrying(store, methods=["raed"])
    with pytest.raises(PortError, match="must implement a port"):
        retrying("no adapter")  # type: ignore[type-var]


class Flaky(noop.SamplingClient):
    """Work of its first calls fails, on a thread of its own."""

    failures = 2

    def compute_logprobs(self, session: Any, prompt: Any) -> Any:
        import concurrent.futures

        inner: concurrent.futures.Future[Any] = concurrent.futures.Future()
        whole = super().compute_logprobs(session, prompt).result()

        def work() -> None:
            self.failures -= 1
            if self.failures >= 0:
                inner.set_exception(PortError("lost"))
            else:
                inner.set_result(whole)

        threading.Thread(target=work).start()
        return Future.of(inner)


@pytest.mark.parametrize("attempts", [2, 3])
def test_work_that_failed_is_asked_for_again(attempts: int) -> None:
    client = retrying(Flaky(), Retry(attempts, on=PortError))
    session = client.start_session({"model": "any"})
    future = client.compute_logprobs(session, [1, 2])
    if attempts == 3:
        assert future.result(10)[0] is None
    else:
        with pytest.raises(PortError, match="lost"):
            future.result(10)
    client.close()


def test_what_is_beyond_the_port_can_still_be_asked() -> None:
    client = retrying(noop.TrainingClient())
    client.start_session({"model": "any"})
    assert client.calls[0].method == "start_session"
    with pytest.raises(AttributeError, match="no_such"):
        _ = client.no_such
    client.close()


def test_a_completer_is_said_again(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    said = recording(noop.Completer(), tape)
    hello = [Message("user", "Hello \u2028 <3")]
    first = said.complete(hello, max_tokens=4)
    chunks = list(said.stream_complete(hello))
    with pytest.raises(ConfigError) as wrong:
        said.complete(hello, temprature=1)
    said.close()
    again = replaying(tape)
    assert again.complete(messages=hello, max_tokens=4) == first
    assert list(again.stream_complete(hello)) == chunks
    with pytest.raises(ConfigError) as caught:
        again.complete(hello, temprature=1)
    assert str(caught.value) == str(wrong.value)
    with pytest.raises(PortError, match="no further call of complete with these"):
        again.complete(hello, max_tokens=4)
    with pytest.raises(PortError, match=r"no call of complete .*none of it is left"):
        again.complete(hello, max_tokens=5)
    with pytest.raises(PortError, match="the nearest one left differs in max_tokens"):
        replaying(tape).complete(hello, max_tokens=5)


def test_training_is_said_again_with_futures_and_tensors(tmp_path: Path) -> None:
    def train(client: Any) -> list[Any]:
        session = client.start_session({"model": "any", "lora_rank": 4})
        datum = Datum([1, 2, 3], {"labels": [1, 2, 3]})
        results = []
        for _ in range(3):
            results.append(client.forward_backward(session, [datum]).result())
            results.append(client.optim_step(session, 0.1).result())
        client.close_session(session)
        return results

    recorder = recording(noop.TrainingClient(), tmp_path / "tape")
    live = train(recorder)
    recorder.close()
    again = train(replaying(tmp_path / "tape"))
    assert [r.loss for r in again[::2]] == [r.loss for r in live[::2]]
    assert again[1::2] == live[1::2]
    outputs = (r[0].loss_fn_outputs[0]["logprobs"].to_bytes() for r in (again, live))
    assert len(set(outputs)) == 1


def test_a_data_set_is_said_again_by_its_handles(tmp_path: Path) -> None:
    def read(store: Any) -> Any:
        handle = store.shuffle(store.load_dataset("data", limit=5), seed=3)
        batches = store.iterate(handle, 2)
        first = next(batches)
        return first, store.to_list(handle), list(batches), batches.state_dict()

    recorder = recording(noop.DatasetStore(), tmp_path / "tape")
    live = read(recorder)
    recorder.close()
    player = replaying(tmp_path / "tape")
    assert read(player) == live


def test_a_handle_says_what_it_is(tmp_path: Path) -> None:
    recorder = recording(noop.TrainingClient(), tmp_path / "tape")
    session = recorder.start_session({"model": "any"})
    recorder.get_tokenizer(session)
    recorder.close()
    player = replaying(tmp_path / "tape")
    tokenizer = player.get_tokenizer(player.start_session({"model": "any"}))
    with pytest.raises(PortError, match="a recorded handle has no 'encode'"):
        tokenizer.encode("text")


class BreaksOff(noop.BlobStore):
    def stream(self, path: str, chunk_size: int = 1) -> Iterator[bytes]:
        yield b"half"
        raise PortError("the line went dead")


def test_a_stream_that_breaks_off_does_so_again(tmp_path: Path) -> None:
    recorder = recording(BreaksOff(), tmp_path / "tape")
    for store in (recorder, None):
        player = store or replaying(tmp_path / "tape")
        stream = player.stream("x")
        assert next(stream) == b"half"
        with pytest.raises(PortError, match="the line went dead"):
            next(stream)
        player.close()


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    recording(noop.Completer(), tmp_path / "tape").close()
    with pytest.raises(PortError, match="could not record to"):
        recording(noop.Completer(), tmp_path / "tape")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1 is damaged"),
        ("{}", "lacks"),
        ('{"port": "oven", "version": 1}', "must be a recording"),
        ('{"port": "completer", "version": 2}', "must be a recording"),
        ('{"port": "completer", "version": 1}\n{"n": 0', "line 2 is damaged"),
        ('{"port": "completer", "version": 1}\n[]', "line 2 is damaged"),
    ],
)
def test_a_damaged_tape_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "tape").write_text(text)
    with pytest.raises(PortError, match=said):
        replaying(tmp_path / "tape")
    with pytest.raises(PortError, match="could not read"):
        replaying(tmp_path / "absent")


def test_every_value_comes_back() -> None:
    codec = Codec()
    values = [
        None,
        True,
        -3,
        1.5,
        float("inf"),
        "text",
        b"\x00\xff",
        (1, (2,)),
        [1, [2]],
        {"a": {"b": [1]}},
        {1: "one", "$odd": 2},
        TensorData(np.arange(6, dtype=np.int64), shape=[2, 3]),
        SamplingParams(3, stop=["x"]),
        Completion("t", "length", Usage(1, 2)),
        SessionConfig(model="m", lora_targets=["q_proj"]),
    ]
    for value in values:
        back = codec.decode(json.loads(json.dumps(codec.encode(value))))
        assert type(back) is type(value)
        if isinstance(value, TensorData):
            assert back.tolist() == value.tolist()
        else:
            assert back == value
    with pytest.raises(ValueError, match="unknown mark"):
        codec.decode({"$what": 1})


def test_a_damaged_call_is_named(tmp_path: Path) -> None:
    tape = tmp_path / "tape"
    recorder = recording(noop.Completer(), tape)
    recorder.get_model()
    recorder.close()
    tape.write_text(tape.read_text().replace('"result"', '"resutl"'))
    with pytest.raises(PortError, match="call 0 is damaged"):
        replaying(tape).get_model()


def test_a_data_error_stays_one(tmp_path: Path) -> None:
    recorder = recording(noop.DatasetStore(), tmp_path / "tape")
    with pytest.raises(DataError):
        recorder.load_dataset("data", split="none")
    recorder.close()
    with pytest.raises(DataError, match="none"):
        replaying(tmp_path / "tape").load_dataset("data", split="none")
