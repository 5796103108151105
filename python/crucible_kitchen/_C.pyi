"""The compiled extension; its doors check their own arguments."""

from typing import Any

def __getattr__(name: str) -> Any: ...
