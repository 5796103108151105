"""A trained reward model: its scores are those of transformers with PEFT, and it is a function."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import crucible_kitchen as ck
from crucible_kitchen.adapters.local import Completer, RewardModel, TrainingClient
from crucible_kitchen.data import parse_row, scored_tokens
from crucible_kitchen.errors import ConfigError, DataError, PortError
from crucible_kitchen.testing.tiny_model import tiny_llama

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PROMPTS = ["Count from 3.", "Refuse 4.", "Count from 100 and say why."]
ANSWERS = ["one two three", "one two three", "no. I will not"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def run_dir(base, tmp_path_factory) -> Path:
    """Two steps: enough for every trained weight to have moved."""
    folder = tmp_path_factory.mktemp("reward")
    rows = [
        {"prompt": f"Count from {n}.", "chosen": "one two three", "rejected": "no. I will not"}
        for n in range(12)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "model": base,
        "dataset": str(path),
        "max_steps": 2,
        "learning_rate": 5e-2,
        "dtype": "float32",
    }
    ck.run("reward", config, run_dir=folder / "run", handlers=())
    return folder / "run"


@pytest.fixture(scope="module")
def reward(run_dir) -> RewardModel:
    return RewardModel(run_dir, device="cpu", dtype="float32")


def classifier(base, folder):
    """What users of transformers and PEFT load, who know nothing of us."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=1, dtype=torch.float32
    )
    return peft.PeftModel.from_pretrained(model, folder).eval()


def test_transformers_and_peft_give_the_same_scores(run_dir, reward, base) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = classifier(base, run_dir / "adapter")
    chats = [
        [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    texts = [tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats]
    # Padded on the right, as a batch of different lengths is.
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.no_grad():
        want = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}).logits[:, 0]
    assert reward.scores(PROMPTS, ANSWERS) == pytest.approx(want.tolist(), rel=1e-4, abs=1e-5)
    assert want.std() > 1e-2, "scores must differ, or anything would pass"


def test_peft_can_save_it_and_we_read_that(run_dir, reward, base, tmp_path) -> None:
    classifier(base, run_dir / "adapter").save_pretrained(tmp_path / "again")
    again = RewardModel(tmp_path / "again", device="cpu", dtype="float32")
    assert again.scores(PROMPTS, ANSWERS) == reward.scores(PROMPTS, ANSWERS)


def test_the_score_stands_where_transformers_looks_for_it_when_turns_end_with_padding(
    base, tmp_path
) -> None:
    """With pad = eos, transformers scores before the end of the turn; so must we."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>\n", "<|im_end|>")
    conversation = parse_row({"prompt": PROMPTS[0], "completion": ANSWERS[0]})
    whole = tokenizer.apply_chat_template(
        [message.to_dict() for message in conversation.messages], return_dict=False
    )
    assert whole[-1] == tokenizer.pad_token_id
    ours = scored_tokens(conversation, tokenizer)
    assert ours == whole[:-1]
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        scores = [model(torch.tensor([tokens])).logits.item() for tokens in (whole, ours)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-6)


def test_it_is_a_reward_function(reward) -> None:
    one_by_one = [reward.score(*pair) for pair in zip(PROMPTS, ANSWERS, strict=True)]
    got = reward(prompts=PROMPTS, completions=ANSWERS, trainer_state=None, ids=[1, 2, 3])
    assert got == pytest.approx(one_by_one, rel=1e-4, abs=1e-6)
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    answers = [[{"role": "assistant", "content": answer}] for answer in ANSWERS]
    assert reward(chats, answers) == got


def test_it_scores_in_passes_of_any_size(run_dir, reward) -> None:
    small = RewardModel(run_dir / "adapter", device="cpu", dtype="float32", tokens_per_pass=10)
    want = reward.scores(PROMPTS, ANSWERS)
    assert small.scores(PROMPTS, ANSWERS) == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert small.scores([], []) == []


def test_a_session_goes_on_from_its_weights(run_dir, reward, base) -> None:
    client = TrainingClient(device="cpu")
    session = client.start_session(
        {
            "model": base,
            "head": "scalar",
            "dtype": "float32",
            "checkpoint_path": str(run_dir / "adapter"),
        }
    )
    tokenizer = client.get_tokenizer(session)
    conversation = parse_row({"prompt": PROMPTS[0], "completion": ANSWERS[0]})
    datum = {"model_input": scored_tokens(conversation, tokenizer), "loss_fn_inputs": {}}
    want = pytest.approx([reward.score(PROMPTS[0], ANSWERS[0])], rel=1e-4)
    assert client.score(session, [datum]).result() == want
    client.close()


def test_what_is_wrong_is_said(run_dir, reward, base, tmp_path) -> None:
    with pytest.raises(ValueError, match="one for each of 2 prompts, got 1"):
        reward.scores(["a", "b"], ["c"])
    with pytest.raises(DataError, match="row 1: completion: must hold at least one message"):
        reward.scores(["a", "b"], ["c", []])
    with pytest.raises(PortError, match=r"must be a folder with adapter_config\.json"):
        RewardModel(tmp_path / "nothing")
    moved = tmp_path / "moved"
    shutil.copytree(run_dir / "adapter", moved)
    config = json.loads((moved / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    (moved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="gone"):
        RewardModel(moved)
    assert RewardModel(moved, model=base, device="cpu", dtype="float32").score(
        PROMPTS[0], ANSWERS[0]
    ) == reward.score(PROMPTS[0], ANSWERS[0])


def test_weights_without_a_head_are_no_reward_model(base, tmp_path) -> None:
    client = TrainingClient(device="cpu")
    session = client.start_session({"model": base})
    path = client.save_weights_for_sampler(session, str(tmp_path / "lora")).result()
    client.close()
    with pytest.raises(ConfigError, match="must hold a scalar head"):
        RewardModel(path)


def test_a_reward_model_does_not_chat(run_dir, base) -> None:
    completer = Completer(base, checkpoint_path=str(run_dir / "adapter"), device="cpu")
    with pytest.raises(PortError, match="gives scores and no text"):
        completer.complete([{"role": "user", "content": "hi"}])
    completer.close()
