"""What the hub's refusals mean, in our words."""

from __future__ import annotations

from http import HTTPStatus

from huggingface_hub import errors, get_token

from crucible_kitchen.adapters.foreign import without_secrets

_LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


def refusal(error: Exception) -> str | None:
    """What an answer says of who asked, and what to do about it; None for any other error."""
    if isinstance(error, errors.GatedRepoError):
        return f"its owners grant access on its page, and have not to this token; {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository, or it is private and may not be read with this token; "
            f"{_LOG_IN}"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"the hub refused the token; {_LOG_IN}"
    return None


def told(error: Exception, *secrets: str | None) -> str:
    """The reason of an error, without `secrets` and the token that this machine is logged in by."""
    reason = f"{type(error).__name__}: {error}"
    return refusal(error) or without_secrets(reason, *secrets, get_token())
