"""Without an adapter's library, the error names the extra; its module imports all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from crucible_kitchen.adapters import fsspec, huggingface, mlflow, tensorboard, wandb
from crucible_kitchen.errors import PortError


def _record(store: Any) -> None:
    store.record("run", "loss", 1.0)


@pytest.mark.parametrize(
    ("library", "extra", "use"),
    [
        ("datasets", "huggingface", lambda at: huggingface.DatasetStore().load_dataset("x")),
        ("fsspec", "fsspec", lambda at: fsspec.BlobStore("memory://x")),
        ("mlflow", "mlflow", lambda at: mlflow.MetricsStore(at)),
        ("mlflow", "mlflow", lambda at: mlflow.ModelRegistry(at)),
        ("tensorboard", "tensorboard", lambda at: _record(tensorboard.MetricsStore(at))),
        ("wandb", "wandb", lambda at: _record(wandb.MetricsStore(dir=at))),
    ],
)
def test_a_missing_library_is_an_error_that_names_the_extra(
    library: str, extra: str, use: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in [m for m in sys.modules if m.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        PortError, match=rf"needs {library}.*pip install 'crucible-kitchen\[{extra}"
    ):
        use(str(tmp_path))


def test_importing_adapters_imports_no_optional_library() -> None:
    code = (
        "import sys\n"
        "from crucible_kitchen.adapters import fsspec, huggingface, mlflow, openai, tensorboard\n"
        "from crucible_kitchen.adapters import compose, wandb\n"
        "print(sorted({'datasets', 'mlflow', 'tensorboard', 'wandb', 'torch'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
