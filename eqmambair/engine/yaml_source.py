"""YAML read with the line of every key, so that an error can say where it stands.

Differs from ``yaml.safe_load`` in four ways: ``1e-4`` is a number, a key given twice is refused, keys are text, and dates stay text.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eqmambair.errors import UserError

KeyPath = tuple[str | int, ...]
_MOST_NODES = 100_000  # an option file has a few hundred; aliases of aliases can stand for millions

_FLOAT = re.compile(
    r"^[-+]?(?:(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)|[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?)$"
)


class _Loader(yaml.SafeLoader):
    """``SafeLoader`` with YAML 1.2's numbers and without dates and base-60 integers."""


_OTHERS = {"tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int"}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _OTHERS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"), list("-+."))


@dataclass
class Source:
    """The content of an option file and where each key of it stands."""

    file: str
    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """``file:line`` of the key, or of the nearest key above it that has one."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.file


def parse_scalar(text: str) -> Any:
    """The value that ``text`` would have in an option file: a number, truth value, list, mapping, null or text."""
    try:
        return yaml.load(text, Loader=_Loader)  # _Loader is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def read_yaml(path: str | Path) -> Source:
    """The mapping in a YAML file with the place of each key.

    Raises:
        UserError: the file is missing, is no text, is no YAML, or is not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such option file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, not an option file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file (UTF-8)") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, file: str) -> Source:
    """As ``read_yaml``, from a string."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                raise UserError(f"{file}: the file is empty")
            if not isinstance(root, yaml.MappingNode):
                raise UserError(f"{file}:{root.start_mark.line + 1}: expected `key: value` lines at the top")
            places: dict[KeyPath, str] = {}
            _walk(root, (), file, places, [])
            data = loader.construct_document(root)
        finally:
            loader.dispose()
    except UserError:  # is a ValueError, and says all already
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        raise UserError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())[:200]}") from None
    return Source(file, data, places)


def _walk(node: yaml.Node, path: KeyPath, file: str, places: dict[KeyPath, str], above: list[yaml.Node]) -> None:
    """Note the line of every key below ``node``; refuse doubled keys, keys that are no text, and loops."""
    if len(places) > _MOST_NODES:
        raise UserError(f"{file}: more than {_MOST_NODES} keys; is this an option file?")
    if any(node is upper for upper in above):
        raise UserError(f"{file}:{node.start_mark.line + 1}: an alias that contains itself")
    above = [*above, node]
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = f"{file}:{key.start_mark.line + 1}"
            if key.tag == "tag:yaml.org,2002:merge":
                _walk(value, path, file, places, above)
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{line}: a key must be text")
            if key.tag != "tag:yaml.org,2002:str":
                raise UserError(f"{line}: the key {key.value} must be text (put it in quotes if it is one)")
            if key.value in seen:
                raise UserError(f"{line}: the key {key.value!r} stands here a second time")
            seen.add(key.value)
            here = (*path, key.value)
            places[here] = line
            _walk(value, here, file, places, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            item = (*path, index)
            places[item] = f"{file}:{value.start_mark.line + 1}"
            _walk(value, item, file, places, above)
