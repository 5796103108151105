"""What holds for every test."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Before torch loads OpenMP: a thread that spins at a join stops whatever shares the machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell's jobs in the background ignore Ctrl-C, and so would all that tests start to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that does other work draws examples slowly, and that says nothing of our code.
settings.register_profile(
    "any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any-machine")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    """Moto's S3 server on a free port of loopback; what it holds is this process's."""
    pytest.importorskip("s3fs", reason="pip install 'crucible-kitchen[services]'")
    moto = pytest.importorskip("moto.server", reason="pip install 'crucible-kitchen[services]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def s3(s3_server: Any) -> dict[str, Any]:
    """Options that reach a bucket ``kitchen`` on that server."""
    fsspec = pytest.importorskip("fsspec")
    host, port = s3_server.get_host_and_port()
    options = {
        "endpoint_url": f"http://{host}:{port}",
        "key": "AKIATESTTESTTESTTEST",
        "secret": "topsecret",
    }
    fsspec.filesystem("s3", **options).mkdir("kitchen")
    return options
