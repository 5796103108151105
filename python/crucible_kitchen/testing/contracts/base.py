"""What holds for every adapter."""

from __future__ import annotations

from typing import Any, ClassVar

from crucible_kitchen.ports import Port, resolve


class PortContract:
    """Base of the contracts; a subclass says which `port` it is of, a user's test gives `adapter`.

    Tests leave the adapter open; a fixture that must close it does so after its ``yield``.
    """

    port: ClassVar[type[Port]]

    def test_is_an_adapter_of_its_port(self, adapter: Any) -> None:
        assert isinstance(adapter, self.port)
        assert resolve({self.port.name: adapter})[self.port.name] is adapter

    def test_can_be_closed_twice(self, adapter: Any) -> None:
        adapter.close()
        adapter.close()
