"""A plain networkx graph as a workflow: nodes carry a stage, and an edge says what comes first."""

import networkx as nx

import crucible_kitchen as ck


@ck.stage(writes="text")
def read() -> str:
    return "to be or not to be"


@ck.stage(writes="words")
def split(text: str) -> list:
    return text.split()


@ck.stage(writes="longest")
def longest(words: list) -> str:
    return max(words, key=len)


@ck.stage(writes="counts")
def count(words: list) -> dict:
    return {word: words.count(word) for word in sorted(set(words))}


@ck.stage
def show(counts: dict, longest: str) -> None:
    print(counts, "longest:", longest)


g = nx.DiGraph(name="words")
g.add_node("show", stage=show)
g.add_node("count", stage=count, retry=2)
g.add_node("longest", stage=longest)
g.add_node("split", stage=split)
g.add_node("read", stage=read)
g.add_edges_from([("read", "split"), ("split", "count"), ("split", "longest")])
g.add_edges_from([("count", "show"), ("longest", "show")])

words = ck.Workflow.from_networkx(g)

if __name__ == "__main__":
    print(" -> ".join(node.name for node in words.body))
    ck.run(words, handlers=())
