"""The dry server through the official SDK."""

from __future__ import annotations

import gc
import warnings

import pytest

tinker = pytest.importorskip("tinker", reason="pip install 'crucible-kitchen[tinker]'")

# The SDK closes sockets when its loop ends.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")


@pytest.fixture
def service(server, tmp_path):
    dry = type(server)("noop", tmp_path / "state")
    dry.start()
    client = tinker.ServiceClient(base_url=dry.url, api_key=dry.key)
    yield client
    client.close("success").result()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        del client
        gc.collect()
    dry.kill()


def test_a_program_gets_the_tokenizer_and_a_thousand_samples_at_once(service):
    client = service.create_lora_training_client("noop", rank=4).result()
    tokenizer = client.get_tokenizer()
    text = "The kitchen opens at n\u00f6\u00f6n. \U0001f373<|im_end|>"
    tokens = tokenizer.encode(text)
    assert tokens == [*text.removesuffix("<|im_end|>").encode(), 258]
    assert tokenizer.decode(tokens) == text
    turns = [{"role": "user", "content": "Hi"}]
    said = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert said == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    sampler = client.save_weights_and_get_sampling_client().result()
    prompt, params = tinker.ModelInput.from_ints(tokens[:4]), tinker.SamplingParams(max_tokens=2)
    asked = [sampler.sample(prompt, 1, params) for _ in range(1000)]
    assert all(len(one.result().sequences[0].tokens) == 2 for one in asked)
