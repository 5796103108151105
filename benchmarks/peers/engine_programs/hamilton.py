"""Functions of a module, named after what they give; a key is given once, so there are no loops."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from . import CHAINS_MS, Engine, Program


def _module(name: str, source: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), vars(module))
    return module


def chain(stages: int) -> Program:
    from hamilton import base, driver

    source = "def x_0() -> int:\n    return 0\n" + "".join(
        f"def x_{i + 1}(x_{i}: int) -> int:\n    return x_{i} + 1\n" for i in range(stages)
    )
    module = _module("hamilton_chain", source)
    made = driver.Builder().with_modules(module).with_adapter(base.DefaultAdapter()).build()
    last = f"x_{stages}"
    return lambda: lambda: int(made.execute([last])[last])


def chains() -> Program:
    """On its adapter of threads; without it, one stage runs at a time."""
    from hamilton import driver
    from hamilton.plugins import h_threadpool

    source = "import time\n"
    for chain, waits in enumerate(CHAINS_MS):
        for number, milliseconds in enumerate(waits):
            before = f"x_{chain}_{number - 1}"
            reads, value = (f"{before}: int", before) if number else ("", "0")
            source += (
                f"def x_{chain}_{number}({reads}) -> int:\n"
                f"    time.sleep({milliseconds / 1e3})\n"
                f"    return {value} + 1\n"
            )
    module = _module("hamilton_chains", source)
    last = [f"x_{chain}_{len(waits) - 1}" for chain, waits in enumerate(CHAINS_MS)]

    def once() -> int:
        adapter = h_threadpool.FutureAdapter()
        made: Any = driver.Builder().with_modules(module).with_adapters(adapter).build()
        return sum(made.execute(last).values())

    return lambda: once


ENGINE = Engine("Hamilton", "sf-hamilton", "hamilton.driver", chain, chains=chains)
