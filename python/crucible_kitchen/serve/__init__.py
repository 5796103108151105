"""A server that speaks the Tinker API, so that programs written for the service run at home."""

from .kitchen import Kitchen
from .state import State

__all__ = ["Kitchen", "State"]
