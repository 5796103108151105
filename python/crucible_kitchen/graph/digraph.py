"""Workflows as `networkx.DiGraph`s; networkx is imported here and nowhere else, when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx

from .blocks import Block, Node
from .flow import carried, keys_read
from .keys import keys_written
from .loops import Loop
from .order import edges


def nested(workflow: Block) -> Any:
    """A DiGraph of the body; a block is one node whose attribute ``graph`` is again a DiGraph.

    Nodes are names, in the order of the text; they have ``kind, spec, reads, writes, carried,
    source``. An edge says that its head must come later, with ``keys`` and ``why`` as in
    `order.Edge`. Every level is acyclic.
    """
    return _regions_graph(workflow)


def _regions_graph(block: Block) -> Any:
    first, *others = block.regions
    graph = _graph(first[1])
    for label, body in others:
        last = list(graph)
        graph.add_node(
            label,
            kind=label,
            spec=None,
            reads=tuple(dict.fromkeys(keys_read(body))),
            writes=tuple(dict.fromkeys(keys_written(body))),
            carried=(),
            source=block.source,
            graph=_graph(body),
        )
        if label in ("on_error", "finally"):  # after everything before it, whatever it reads
            graph.add_edges_from(((name, label) for name in last), why=(label,), keys=())
    return graph


def _graph(body: Iterable[Node]) -> Any:
    graph = nx.DiGraph()
    nodes = tuple(body)
    for node in nodes:
        graph.add_node(
            node.name,
            kind=node.kind,
            spec=node,
            reads=tuple(sorted(set(keys_read([node])))),
            writes=tuple(sorted(set(keys_written([node])))),
            carried=carried(node) if isinstance(node, Loop) else (),
            source=node.source,
        )
        if isinstance(node, Block):
            graph.nodes[node.name]["graph"] = _regions_graph(node)
    for before, after, why, keys in edges(nodes):
        graph.add_edge(nodes[before].name, nodes[after].name, why=why, keys=keys)
    return graph


def flat(workflow: Block) -> Any:
    """One DiGraph of every node at any depth; ids are paths, ``parent`` is the block's path."""
    graph = nx.DiGraph()

    def add(inner: Any, parent: str) -> None:
        for name, attributes in inner.nodes(data=True):
            path = f"{parent}/{name}"
            own = {key: value for key, value in attributes.items() if key != "graph"}
            graph.add_node(path, parent=parent, **own)
            if "graph" in attributes:
                add(attributes["graph"], path)
        for head, tail, attributes in inner.edges(data=True):
            graph.add_edge(f"{parent}/{head}", f"{parent}/{tail}", **attributes)

    graph.add_node(
        workflow.name,
        parent=None,
        kind=workflow.kind,
        spec=workflow,
        reads=tuple(dict.fromkeys(keys_read([workflow]))),
        writes=tuple(dict.fromkeys(keys_written([workflow]))),
        carried=(),
        source=workflow.source,
    )
    add(nested(workflow), workflow.name)
    return graph
