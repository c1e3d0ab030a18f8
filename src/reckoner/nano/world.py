"""The data of the embedded problems: words, kinds of quantity, relations, and the templates built from them.

`relations/README.md` describes the form. What can be checked before a problem is drawn is checked here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from reckoner.errors import InputError

MOST_RELATIONS = 4
MOST_STEPS = 4
START = "a start"
TEMPLATES_A_GROUP = 5
"""Of each category, number of relations and last relation at most so many combinations are used, by hash."""
_RELATION: dict[str, type] = {
    "from": list, "to": str, "fact": bool, "least": int, "draw": dict, "require": list, "say": list,
    "ask": list, "steps": dict,
}  # fmt: skip
_KIND: dict[str, type] = {"ask": list, "aside": list}
_ENTRIES: dict[str, tuple[type, ...]] = {"draw": (str, list)}


class Fault(Exception):
    """Data that have no meaning; whoever knows the file and the relation adds them."""


@dataclass(frozen=True, slots=True)
class World:
    """Groups of words, tables of words that go with a number, kinds of quantity, relations, and templates.

    A word is a mapping of its forms: `{"": "Anna", ".he": "she", ".He": "She"}`. A table's name begins with
    "|". `templates` names each combination of relations, such as `has-loses-sells`; `unseen` holds the fifth
    of them that train never uses.
    """

    groups: Mapping[str, Sequence[Mapping[str, str]]]
    tables: Mapping[str, Mapping[Any, str]]
    kinds: Mapping[str, Mapping[str, Any]]
    relations: Mapping[str, Mapping[str, Any]]
    templates: Mapping[str, tuple[str, ...]]
    unseen: frozenset[str]


# Not every build of PyYAML has libyaml's loader, which reads the same documents ten times as fast.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe subset, in which a key that stands twice is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(keys) > len(set(keys)):
            raise Fault(f"{next(key for key in keys if keys.count(key) > 1)} stands twice")
        return super().construct_mapping(node, deep)


def load(folder: Traversable) -> World:
    """The world of a folder: `world.yaml` and all of `relations/*.yaml`, in the order of their names.

    Raises `InputError` naming the file, and the kind or relation where there is one, for a fault of the data.
    """
    data = _read(folder / "world.yaml")
    groups = {name: [{"": noun} for noun in nouns] for name, nouns in data["nouns"].items()}
    groups["person"] = [
        _word(name, forms) for names, forms in data["people"].items() for name in names.split()
    ]
    kinds: dict[str, Any] = {}
    relations: dict[str, Any] = {}
    for path in sorted((folder / "relations").iterdir(), key=lambda path: path.name):
        if not path.name.endswith(".yaml"):
            continue
        both = _read(path)
        if unknown := [what for what in both if what not in ("kinds", "relations")]:
            raise InputError(f"{path.name}: has kinds and relations, not {unknown[0]}")
        for what, found, known in (("kinds", kinds, _KIND), ("relations", relations, _RELATION)):
            for name, entry in both.get(what, {}).items():
                _refuse(entry, known, f"{path.name}: {name}", twice=name in found)
                found[name] = entry | {"file": path.name}
    for name, relation in relations.items():
        ends = [*relation.get("from", ()), relation.get("to")]
        if unknown := [kind for kind in ends if kind is not None and kind not in kinds]:
            raise InputError(f"{relation['file']}: {name}: there is no kind {unknown[0]}")
    templates = dict(_templates(relations))
    unseen = frozenset(
        name for group in _groups(templates, lambda path: _kind(relations, path)) for name in group[4::5]
    )
    return World(groups, {f"|{k}": v for k, v in data["tables"].items()}, kinds, relations, templates, unseen)


def _templates(relations: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The templates in use, in the order of categories and of their relations in the files."""
    after: dict[str, list[str]] = {}
    for name, relation in relations.items():
        for kind in relation.get("from", (START,)):
            after.setdefault(kind, []).append(name)
    steps = {name: len(relation.get("steps", ())) for name, relation in relations.items()}
    combined = {
        "-".join(path): path
        for name in after[START]
        for path in _paths(relations, after, steps, (name,), steps[name])
    }
    chosen = {
        name
        for group in _groups(combined, lambda path: (*_kind(relations, path), path[-1]))
        for name in group[:TEMPLATES_A_GROUP]
    }
    return ((name, path) for name, path in combined.items() if name in chosen)


def _paths(
    relations: Mapping[str, Any],
    after: Mapping[str, Sequence[str]],
    steps: Mapping[str, int],
    path: tuple[str, ...],
    done: int,
) -> Iterator[tuple[str, ...]]:
    """All combinations that begin with `path`, which has `done` steps: none holds a relation twice."""
    for name in after.get(relations[path[-1]].get("to", ""), ()):
        if name not in path and (count := done + steps[name]) <= MOST_STEPS:
            longer = (*path, name)
            if count > 1:
                yield longer
            if len(longer) < MOST_RELATIONS:
                yield from _paths(relations, after, steps, longer, count)


def _kind(relations: Mapping[str, Any], path: Sequence[str]) -> tuple[str, int]:
    """The file of a chain's first relation, and its length."""
    return relations[path[0]]["file"], len(path)


def _groups(
    templates: Mapping[str, tuple[str, ...]], key: Callable[[tuple[str, ...]], Hashable]
) -> list[list[str]]:
    """The templates of each value of `key`, in the order of their hashes."""
    groups: dict[Hashable, list[str]] = {}
    for name in sorted(templates, key=lambda name: hashlib.sha256(name.encode()).digest()):
        groups.setdefault(key(templates[name]), []).append(name)
    return list(groups.values())


def _word(text: str, forms: Mapping[str, str]) -> dict[str, str]:
    """A word with its forms; `.He` is the form `.he` with a capital letter."""
    capitals = {f".{form.capitalize()}": word.capitalize() for form, word in forms.items()}
    return {"": text} | {f".{form}": word for form, word in forms.items()} | capitals


def _read(path: Traversable) -> dict[str, Any]:
    try:
        data = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, Fault) as error:
        raise InputError(f"{path.name}: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path.name}: must hold a mapping of names")
    return data


def _refuse(entry: Any, known: Mapping[str, type], where: str, twice: bool) -> None:
    """Raise `InputError` where an entry has an unknown part, or a part of another type than it takes."""
    if twice:
        raise InputError(f"{where}: another file has an entry of this name")
    if not isinstance(entry, dict):
        raise InputError(f"{where}: must be a mapping of {', '.join(known)}")
    for part, value in entry.items():
        if part not in known:
            raise InputError(f"{where}: unknown part {part!r}; the parts are {', '.join(known)}")
        if type(value) is not known[part] or value in ("", [], {}):
            raise InputError(f"{where}: {part} must be a {known[part].__name__}, and not empty")
        if isinstance(value, dict) and (odd := [name for name in value if not isinstance(name, str)]):
            raise InputError(f"{where}: {part}: put the name {odd[0]!r} in quotation marks")
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if wrong := [one for one in entries if type(one) not in _ENTRIES.get(part, (str,))]:
            raise InputError(f"{where}: {part} cannot hold {wrong[0]!r}; put a text in quotation marks")
