"""YAML as this package reads and writes it: numbers like ``2e-5``, no key twice, lines kept."""

from __future__ import annotations

import re
from typing import Any

import yaml

_FLOAT = "tag:yaml.org,2002:float"
_SCIENTIFIC = re.compile(
    r"""^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class Mapping(dict[Any, Any]):
    """A mapping that knows its line."""

    line: int = 0


class Items(list[Any]):
    """A list that knows the lines of its items."""

    lines: tuple[int, ...] = ()


class _Loader(yaml.SafeLoader):
    """The safe loader, but ``2e-5`` is a number: YAML 1.1 wants ``2.0e-5``."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                message = f"the key {key.value!r} stands twice"
                raise yaml.constructor.ConstructorError(None, None, message, key.start_mark)
            seen.add(key.value)
            if key.value == "on" and key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"  # a key of ours; to YAML 1.1 a truth value
        return super().construct_mapping(node, deep)


class _LinedLoader(_Loader):
    """A loader whose mappings are `Mapping`s, and whose lists are `Items`."""

    def construct_lined_mapping(self, node: yaml.MappingNode) -> Any:
        found = Mapping()
        found.line = node.start_mark.line + 1
        yield found
        found.update(self.construct_mapping(node, deep=True))

    def construct_items(self, node: yaml.SequenceNode) -> Any:
        found = Items()
        found.lines = tuple(item.start_mark.line + 1 for item in node.value)
        yield found
        found.extend(self.construct_sequence(node, deep=True))


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads as it was: it must quote the text ``2e-5``."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # Line breaks of Unicode: but for double quotes, they would come back as spaces.
        style = '"' if set("\x85\u2028\u2029\ufeff") & set(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


for _side in (_Loader, _Dumper):
    _side.yaml_implicit_resolvers = {
        key: [(tag, pattern) for tag, pattern in resolvers if tag != _FLOAT]
        for key, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _side.add_implicit_resolver(_FLOAT, _SCIENTIFIC, list("-+0123456789."))
_Dumper.add_representer(str, _Dumper.represent_text)
_LinedLoader.add_constructor("tag:yaml.org,2002:map", _LinedLoader.construct_lined_mapping)
_LinedLoader.add_constructor("tag:yaml.org,2002:seq", _LinedLoader.construct_items)


def parse_yaml(text: str, *, lines: bool = False) -> Any:
    """A YAML document.

    Args:
        text: the document.
        lines: whether its mappings are `Mapping`s and its lists `Items`.
    Raises:
        ValueError: it is not YAML, or has a key twice in a mapping.
    """
    try:
        return yaml.load(text, Loader=_LinedLoader if lines else _Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def dump_yaml(content: Any) -> str:
    """Data of JSON as a YAML document."""
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, indent=2
    )
