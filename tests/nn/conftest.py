import pytest
import torch
from transformers import AutoModelForCausalLM

from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def tiny(tiny_folder):
    """A fresh tiny Llama in float32, in evaluation mode."""
    return AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()


@pytest.fixture
def tokens():
    return torch.randint(3, 300, (2, 17), generator=torch.Generator().manual_seed(5))
