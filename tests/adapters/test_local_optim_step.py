"""What a step of the local training client reads from the device, and when."""

from __future__ import annotations

from crucible_kitchen import ops
from crucible_kitchen.optim.global_norm import Unread


def test_the_norm_is_read_once_and_after_the_update(local_client, start, datums, monkeypatch):
    told = []
    update, read = ops.adamw_step, Unread.read

    def told_update(*tensors, **options):
        told.append("update")
        update(*tensors, **options)

    def told_read(self):
        told.append("read")
        return read(self)

    monkeypatch.setattr(ops, "adamw_step", told_update)
    monkeypatch.setattr(Unread, "read", told_read)
    session = start()
    for _ in range(2):
        local_client.forward_backward(session, datums, "cross_entropy")
        assert local_client.optim_step(session, 1e-3).result().grad_norm > 0
    assert told == ["update", "read"] * 2
