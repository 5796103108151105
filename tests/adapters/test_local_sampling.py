"""Drawing from a local model, and chatting with it while it is trained."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from crucible_kitchen.adapters.local import Completer, SamplingClient
from crucible_kitchen.errors import ConfigError, PortError

PROMPT = [5, 9, 60, 17, 33]


@pytest.fixture(scope="module")
def sampling_client():
    client = SamplingClient(device="cpu")
    yield client
    client.close()


@pytest.fixture(scope="module")
def session(sampling_client, tiny_folder):
    return sampling_client.start_session({"model": tiny_folder, "dtype": "float32"})


@pytest.fixture(scope="module")
def logits(tiny_folder):
    """Next-token logits [V] of the plain model after some tokens."""
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def after(tokens):
        return model(torch.tensor([tokens])).logits[0, -1]

    return after


def draw(client, session, count=1, prompt=PROMPT, **params):
    return client.sample(session, prompt, count, {"max_tokens": 12, **params}).result()


def test_greedy_is_the_likeliest_token_each_time(sampling_client, session, logits):
    (sample,) = draw(sampling_client, session, temperature=0.0)
    tokens = list(PROMPT)
    for token, logprob in zip(sample.tokens, sample.logprobs, strict=True):
        after = logits(tokens)
        assert token == int(after.argmax())
        assert logprob == pytest.approx(float(after.log_softmax(-1)[token]), abs=1e-4)
        tokens.append(token)
    assert (len(sample.tokens), sample.stop_reason) in {
        (12, "length"),
        (len(sample.tokens), "stop"),
    }


def test_a_seed_repeats_and_samples_differ(sampling_client, session):
    first = draw(sampling_client, session, 4, seed=3)
    assert draw(sampling_client, session, 4, seed=3) == first
    assert draw(sampling_client, session, 4, seed=4) != first
    assert draw(sampling_client, session) != draw(sampling_client, session)
    assert len({sample.tokens for sample in first}) == 4


def test_logprobs_are_those_of_the_unmodified_model(sampling_client, session):
    (sample,) = draw(sampling_client, session, seed=1, temperature=2.0, top_k=40, top_p=0.9)
    whole = sampling_client.compute_logprobs(session, [*PROMPT, *sample.tokens]).result()
    assert whole[0] is None
    assert whole[len(PROMPT) :] == pytest.approx(list(sample.logprobs), abs=1e-4)


def test_temperature_top_k_and_top_p_choose_from_the_right_set(sampling_client, session, logits):
    first = {
        s.tokens[0] for s in draw(sampling_client, session, 200, max_tokens=1, seed=0, top_k=3)
    }
    assert first == set(logits(PROMPT).topk(3).indices.tolist())
    probabilities, order = logits(PROMPT).softmax(-1).sort(descending=True)
    size = int((probabilities.cumsum(0) < 0.3).sum()) + 1
    drawn = draw(sampling_client, session, 400, max_tokens=1, seed=0, top_p=0.3)
    assert {s.tokens[0] for s in drawn} == set(order[:size].tolist())


def test_frequencies_follow_the_temperature(sampling_client, session, logits):
    want = (logits(PROMPT) / 0.5).softmax(-1)
    drawn = draw(sampling_client, session, 2000, max_tokens=1, seed=0, temperature=0.5)
    counts = torch.bincount(torch.tensor([s.tokens[0] for s in drawn]), minlength=512) / 2000
    likeliest = int(want.argmax())
    assert float(counts[likeliest]) == pytest.approx(float(want[likeliest]), abs=0.05)


def test_stops(sampling_client, session, tiny_folder):
    tokenizer = sampling_client.get_tokenizer(session)
    (free,) = draw(sampling_client, session, temperature=0.0)
    token = free.tokens[3]
    first = free.tokens.index(token)
    (at_token,) = draw(sampling_client, session, temperature=0.0, stop=[token])
    assert (at_token.tokens, at_token.stop_reason) == (free.tokens[: first + 1], "stop")
    text = tokenizer.decode(free.tokens[2:4])
    (at_text,) = draw(sampling_client, session, temperature=0.0, stop=[text])
    assert at_text.stop_reason == "stop"
    assert text in tokenizer.decode(at_text.tokens)
    assert text not in tokenizer.decode(at_text.tokens[:-1])


def test_end_of_sequence_ends_one_sample_and_not_the_others(sampling_client, session):
    end = sampling_client.get_tokenizer(session).eos_token_id
    samples = draw(sampling_client, session, 64, temperature=3.0, seed=0, max_tokens=60)
    ended = [s for s in samples if s.stop_reason == "stop"]
    assert 0 < len(ended) < 64
    assert all(s.tokens[-1] == end and end not in s.tokens[:-1] for s in ended)
    assert all(len(s.tokens) == 60 for s in samples if s.stop_reason == "length")
    endless = draw(sampling_client, session, 64, temperature=3.0, seed=0, max_tokens=60, stop=[])
    assert {(len(s.tokens), s.stop_reason) for s in endless} == {(60, "length")}
    assert any(end in s.tokens for s in endless)


def test_a_stream_is_the_sample(sampling_client, session):
    params = {"max_tokens": 8, "seed": 2}
    (whole,) = sampling_client.sample(session, PROMPT, 1, params).result()
    stream = list(sampling_client.sample_stream(session, PROMPT, params))
    assert tuple(token.token for token in stream) == whole.tokens
    for _ in sampling_client.sample_stream(session, PROMPT, {"max_tokens": 400, "seed": 2}):
        break  # leaving early must not block the next call
    assert draw(sampling_client, session, seed=2)


def test_one_token_has_no_logprob(sampling_client, session):
    assert sampling_client.compute_logprobs(session, [5]).result() == [None]


@pytest.mark.parametrize(
    ("prompt", "count", "params", "message"),
    [
        ([], 1, {}, "at least one token"),
        ([512], 1, {}, "below the model's vocabulary of 512"),
        ([5], 0, {}, "num_samples must be at least 1"),
        ([5], 1, {"top_p": 0.0}, "top_p"),
    ],
)
def test_bad_arguments(sampling_client, session, prompt, count, params, message):
    with pytest.raises(ValueError, match=message):
        sampling_client.sample(session, prompt, count, {"max_tokens": 2, **params})


def test_sessions_end(tiny_folder, tmp_path):
    client = SamplingClient(device="cpu")
    session = client.start_session({"model": tiny_folder, "dtype": "float32"})
    client.close_session(session)
    client.close_session(session)
    with pytest.raises(PortError, match="session must be open here"):
        client.compute_logprobs(session, [5, 6])
    with pytest.raises(PortError, match="nowhere"):
        client.start_session({"model": tiny_folder, "checkpoint_path": str(tmp_path / "nowhere")})
    client.close()


@pytest.fixture
def live_client(local_client):
    client = SamplingClient(training_client=local_client)
    yield client
    client.close()


def teach(client, session, tokens, steps=3, rate=0.05):
    datum = {"model_input": tokens, "loss_fn_inputs": {"labels": tokens}}
    for _ in range(steps):
        client.forward_backward(session, [datum])
        client.optim_step(session, rate)


def test_a_live_session_follows_every_update_without_a_save(
    start, local_client, live_client, tiny_folder, monkeypatch
):
    training = start()
    live = live_client.start_session({"model": tiny_folder})

    def forward():
        targets = {"target_tokens": PROMPT[1:], "weights": [1.0] * 4}
        datum = {"model_input": PROMPT[:-1], "loss_fn_inputs": targets}
        (output,) = local_client.forward(training, [datum]).result().loss_fn_outputs
        return [None, *output["logprobs"].tolist()]

    for method in ("save_checkpoint", "save_weights_for_sampler"):
        monkeypatch.setattr(type(local_client), method, None)
    before = live_client.compute_logprobs(live, PROMPT).result()
    assert before == forward()
    samples = draw(live_client, live, temperature=0.0)
    teach(local_client, training, PROMPT)
    # Asked for right after the steps, which are not awaited: it comes after them all the same.
    after = live_client.compute_logprobs(live, PROMPT).result()
    assert after == forward()
    assert sum(after[1:]) > sum(before[1:]) + 1
    assert draw(live_client, live, temperature=0.0) != samples
    teach(local_client, training, PROMPT, steps=30, rate=0.01)
    (learned,) = draw(live_client, live, prompt=PROMPT[:1], temperature=0.0, max_tokens=4)
    assert list(learned.tokens) == PROMPT[1:]
    streamed = live_client.sample_stream(live, PROMPT[:1], {"temperature": 0.0, "max_tokens": 4})
    assert [piece.token for piece in streamed] == PROMPT[1:]


def test_sampling_does_not_disturb_the_training(start, local_client, live_client, tiny_folder):
    """Dropout is drawn, gradients wait, and the optimizer goes on as if nobody had asked."""
    losses = []
    for asks in (False, True):
        training = start(lora_dropout=0.3)
        live = live_client.start_session({"model": tiny_folder})
        datum = {"model_input": PROMPT, "loss_fn_inputs": {"labels": PROMPT}}
        for _ in range(4):
            losses.append(local_client.forward_backward(training, [datum]).result().loss)
            if asks:
                draw(live_client, live, seed=1)
            local_client.optim_step(training, 0.01)
        local_client.close_session(training)
    assert losses[:4] == losses[4:]


def test_a_live_session_ends_with_its_training(start, local_client, live_client, tiny_folder):
    with pytest.raises(PortError, match=r"a session of .*tiny' must be open, got none"):
        live_client.start_session({"model": tiny_folder})
    training = start()
    live = live_client.start_session({"model": tiny_folder})
    with pytest.raises(PortError, match=r"a session of 'other' must be open, got '.*tiny'"):
        live_client.start_session({"model": "other"})
    with pytest.raises(ConfigError, match="checkpoint_path must be left out"):
        live_client.start_session({"model": tiny_folder, "checkpoint_path": "somewhere"})
    local_client.close_session(training)
    with pytest.raises(PortError, match="session must be open"):
        draw(live_client, live)
    start(head="scalar")
    with pytest.raises(PortError, match="sample must have a session with head='vocabulary'"):
        live_client.start_session({"model": tiny_folder})


QUESTION = [{"role": "user", "content": "Return the number of items"}]


def test_trained_weights_reach_the_sampler_and_the_completer(start, local_client, tiny_folder):
    training = start(lora_rank=8)
    tokenizer = local_client.get_tokenizer(training)
    prompt = tokenizer.encode(
        tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    )
    tokens = [*prompt, *tokenizer.encode("the cook reads"), tokenizer.eos_token_id]
    labels = [-100] * len(prompt) + tokens[len(prompt) :]
    datum = {"model_input": tokens, "loss_fn_inputs": {"labels": labels}}
    live = Completer(training_client=local_client, session=training)
    before = live.complete(QUESTION, temperature=0.0, max_tokens=20).text
    assert before != "the cook reads"
    for _ in range(30):
        local_client.forward_backward(training, [datum])
        local_client.optim_step(training, 1e-2)
    answer = live.complete(QUESTION, temperature=0.0)
    assert (answer.text, answer.finish_reason) == ("the cook reads", "stop")
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(tokens) - len(prompt)

    adapter = local_client.save_weights_for_sampler(training, "trained").result()
    stored = Completer(tiny_folder, checkpoint_path=adapter, dtype="float32", device="cpu")
    assert stored.complete(QUESTION, temperature=0.0) == answer
    pieces = list(stored.stream_complete(QUESTION, temperature=0.0))
    assert "".join(piece.text for piece in pieces) == answer.text
    assert len(pieces) > 2
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == "stop"
    cut = stored.complete(QUESTION, temperature=0.0, stop="cook")
    assert (cut.text, cut.finish_reason) == ("the ", "stop")
    streamed = stored.stream_complete(QUESTION, temperature=0.0, stop="cook")
    assert "".join(piece.text for piece in streamed) == "the "
    assert stored.get_model() == live.get_model() == tiny_folder
    stored.close()
    assert local_client.forward_backward(training, [datum]).result().loss < 1.0


def test_a_completer_needs_one_source(start, local_client, tiny_folder):
    session = start()
    for options in (
        {},
        {"session": session},
        {"model": tiny_folder, "training_client": local_client, "session": session},
    ):
        with pytest.raises(ConfigError, match="either model, or training_client"):
            Completer(**options)


def test_a_completer_refuses_bad_questions(tiny_folder):
    completer = Completer(tiny_folder, dtype="float32", device="cpu")
    with pytest.raises(PortError, match="at least one message"):
        completer.complete([])
    with pytest.raises(ConfigError, match="role"):
        completer.complete([{"role": "nobody", "content": "x"}])
    with pytest.raises(ConfigError, match="max_tokns"):
        completer.complete(QUESTION, max_tokns=3)
    completer.close()


def test_a_live_completer_ends_with_its_session(start, local_client):
    session = start()
    live = Completer(training_client=local_client, session=session)
    local_client.close_session(session)
    with pytest.raises(PortError, match="session must be open"):
        live.complete(QUESTION)


def test_a_live_completer_takes_the_newest_session(start, local_client):
    live = Completer(training_client=local_client)
    with pytest.raises(PortError, match="a session must be open"):
        live.complete(QUESTION)
    old, new = start(lora_rank=2), start(lora_rank=8)
    for _ in range(5):
        tokens = [5, 6, 7, 8]
        local_client.forward_backward(
            new, [{"model_input": tokens, "loss_fn_inputs": {"labels": tokens}}]
        )
        local_client.optim_step(new, 0.1)
    options = {"temperature": 0.0, "max_tokens": 8}
    answers = [
        Completer(training_client=local_client, session=s).complete(QUESTION, **options)
        for s in (old, new)
    ]
    assert answers[0] != answers[1]
    assert live.complete(QUESTION, **options) == answers[1]
    local_client.close_session(new)
    assert live.complete(QUESTION, **options) == answers[0]
