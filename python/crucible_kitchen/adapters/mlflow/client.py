"""What both adapters share: the client, and its errors in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from crucible_kitchen.adapters.foreign import library, speaking_our_errors

PAGE = 1000
"""How many things are asked for at a time."""


def client(uri: str | None, port: str) -> Any:
    """MLflow's client of a server or a folder; None is the one that the environment names."""
    mlflow = library("mlflow", port=port, extra="mlflow")
    with errors(port, "open the store"):
        return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def errors(port: str, doing: str) -> AbstractContextManager[None]:
    """Turn MLflow's errors into a `PortError`."""

    def foreign() -> tuple[type[Exception], ...]:
        exceptions = library("mlflow.exceptions", port=port, extra="mlflow")
        return (exceptions.MlflowException, OSError)

    return speaking_our_errors(port, doing, foreign)


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
