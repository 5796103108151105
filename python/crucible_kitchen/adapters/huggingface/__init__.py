"""The Hugging Face hub."""

from .hub_client import HubClient

__all__ = ["HubClient"]
