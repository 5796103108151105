"""Workflows as `networkx.DiGraph`s; networkx is imported here and nowhere else, when asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import networkx as nx

from .blocks import Block, Node
from .branches import Case
from .flow import carried, keys_read
from .keys import is_exclusive, keys_written, ports_used, sees_anything
from .loops import Loop
from .workflow import Workflow


def nested(workflow: Workflow) -> Any:
    """A DiGraph of the body; a block is one node whose attribute ``graph`` is again a DiGraph.

    Nodes are names, in the order of the text; they have ``kind, spec, reads, writes, carried,
    source``. An edge says that its head must come later, with ``keys`` and ``why``: ``read-after-
    write``, ``write-after-read``, ``write-after-write`` or ``same-port``. Every level is acyclic.
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
    earlier: list[tuple[Node, set[str], set[str], set[str]]] = []
    for node in body:
        reads, writes, ports = _touches(node)
        graph.add_node(
            node.name,
            kind=node.kind,
            spec=node,
            reads=tuple(sorted(reads)),
            writes=tuple(sorted(writes)),
            carried=carried(node) if isinstance(node, Loop) else (),
            source=node.source,
        )
        if isinstance(node, Block):
            graph.nodes[node.name]["graph"] = _regions_graph(node)
        for before, its_reads, its_writes, its_ports in earlier:
            causes = {
                "read-after-write": reads & its_writes,
                "write-after-read": writes & its_reads,
                "write-after-write": writes & its_writes,
                "same-port": ports & its_ports,
            }
            if sees_anything([node]) or sees_anything([before]):
                causes["barrier"] = {before.name}
            why = tuple(cause for cause, shared in causes.items() if shared)
            if why and not isinstance(node, Case):  # of cases, one runs
                keys = tuple(sorted(set().union(*(causes[cause] for cause in why))))
                graph.add_edge(before.name, node.name, why=why, keys=keys)
        earlier.append((node, reads, writes, ports))
    return graph


def _touches(node: Node) -> tuple[set[str], set[str], set[str]]:
    """Keys read and written and exclusive ports used by a node and all that is in it."""
    exclusive = {name for name in ports_used([node]) if is_exclusive(name)}
    return set(keys_read([node])), set(keys_written([node])), exclusive


def flat(workflow: Workflow) -> Any:
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
