import pytest

from crucible_kitchen.testing.tiny_model import tiny_llama


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny")
