import pytest
import torch

from crucible_kitchen.adapters.local import TrainingClient
from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def local_client():
    client = TrainingClient(device="cpu")
    yield client
    client.close()


@pytest.fixture
def start(local_client, tiny_folder):
    """Start a session on the tiny model in float32, with some fields of its configuration set."""

    def start(**fields):
        fields = {"model": tiny_folder, "dtype": "float32", "lora_rank": 4, **fields}
        return local_client.start_session(fields)

    return start


@pytest.fixture(scope="session")
def sequences():
    """Eight token sequences of different lengths."""
    generator = torch.Generator().manual_seed(11)
    lengths = (9, 3, 17, 1, 12, 5, 8, 2)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


@pytest.fixture(scope="session")
def datums(sequences):
    """The same as datums whose first third is not trained, with weights of several sizes."""
    return [
        {
            "model_input": tokens,
            "loss_fn_inputs": {
                "target_tokens": [*tokens[1:], 7],
                "weights": [
                    0.0 if i < len(tokens) // 3 else 1.0 + i % 3 for i in range(len(tokens))
                ],
            },
        }
        for tokens in sequences
    ]
