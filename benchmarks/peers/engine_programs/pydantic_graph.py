"""Steps and edges made by its builder."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from . import Engine, Program


def chain(stages: int) -> Program:
    from pydantic_graph import GraphBuilder

    builder = GraphBuilder(name="chain", input_type=int, output_type=int, auto_instrument=False)

    async def add(ctx):  # type: ignore[no-untyped-def] # it looks for annotations in the module
        return ctx.inputs + 1

    steps = [builder.step(add, node_id=f"add_{i}") for i in range(stages)]
    builder.add_edge(builder.start_node, steps[0])
    for one, other in pairwise(steps):
        builder.add_edge(one, other)
    builder.add_edge(steps[-1], builder.end_node)
    graph = builder.build()
    return lambda: lambda: int(asyncio.run(graph.run(inputs=0)))


def loop(iterations: int) -> Program:
    from pydantic_graph import GraphBuilder

    builder = GraphBuilder(name="loop", input_type=int, output_type=int, auto_instrument=False)

    async def add(ctx):  # type: ignore[no-untyped-def] # it looks for annotations in the module
        return ctx.inputs + 1

    step = builder.step(add, node_id="add")
    again = builder.match(int, matches=lambda x: x < iterations).to(step)
    decision = builder.decision().branch(again).branch(builder.match(int).to(builder.end_node))
    builder.add(
        builder.edge_from(builder.start_node).to(step), builder.edge_from(step).to(decision)
    )
    graph = builder.build()
    return lambda: lambda: int(asyncio.run(graph.run(inputs=0)))


ENGINE = Engine("pydantic-graph", "pydantic-graph", "pydantic_graph", chain, loop)
