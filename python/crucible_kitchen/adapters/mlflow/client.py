"""What both adapters share: the client, and its errors in our words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from crucible_kitchen.adapters.foreign import check_reachable, library, speaking_our_errors

PAGE = 1000
"""How many things are asked for at a time."""


def client(uri: str | None, port: str) -> Any:
    """MLflow's client of a server or a folder; None is the one that the environment names.

    Raises:
        PortError: MLflow is not installed or takes no such address, or no server answers there.
    """
    mlflow = library("mlflow", port=port, extra="mlflow")
    with errors(port, "open the store"):
        made = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        # MLflow itself asks for minutes before it says that nobody answers.
        check_reachable(made.tracking_uri)
    return made


def errors(port: str, doing: str) -> AbstractContextManager[None]:
    """Turn MLflow's errors into a `PortError`."""

    def foreign() -> tuple[type[Exception], ...]:
        return (*refusals(port), OSError)

    secrets = (os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("TOKEN", "PASSWORD"))
    return speaking_our_errors(port, doing, foreign, *secrets)


def refusals(port: str) -> tuple[type[Exception], ...]:
    """What MLflow raises when it does not do what it was asked for."""
    return (library("mlflow.exceptions", port=port, extra="mlflow").MlflowException,)


def all_pages(search: Any, **arguments: Any) -> Iterator[Any]:
    """Everything that one of the client's searches finds."""
    token = None
    while True:
        page = search(max_results=PAGE, page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def quoted(text: str) -> str:
    """`text` as a value in a filter of MLflow's, which knows no escapes for quotes.

    Raises:
        ValueError: it holds both kinds of quote.
    """
    for quote in "'\"":
        if quote not in text:
            return f"{quote}{text}{quote}"
    raise ValueError(f"mlflow: a name must not hold both kinds of quote, got {text}")
