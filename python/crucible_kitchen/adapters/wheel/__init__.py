"""Models that travel as Python packages, so that pip is all the network they need."""

from .hub_client import HubClient

__all__ = ["HubClient"]
