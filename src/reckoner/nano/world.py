"""The embedded world as its files describe it: the words, and the templates with their operations checked.

`templates/README.md` describes their form. Whether a name has a value shows in `generator.py`, when a
problem is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from reckoner.errors import InputError

_CASE: dict[str, type] = dict(
    draw=dict, let=dict, steps=dict, require=list, text=dict, whether=str, either=list
)
_TEMPLATE = {"about": str, "category": str, "least": int} | _CASE | {"aside": list, "forms": list}
_KINDS: dict[type, str] = {
    dict: "a mapping of names",
    list: "a list with entries",
    str: "a text",
    int: "an integer",
}
_ENTRIES: dict[str, set[type]] = {"draw": {str, list}, "either": {dict}}


class Fault(Exception):
    """Data that have no meaning; whoever knows the file and the template adds them."""


@dataclass(frozen=True, slots=True)
class Template:
    """A kind of problem: its file, what it is counted under, and what the file says about it."""

    where: str
    category: str
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class World:
    """Groups of words to draw from, tables of words that go with a number, and all templates by name.

    A word is a mapping of its forms: `{"": "pens", ".a": "a pen", ".A": "A pen"}`. A table's name begins
    with "|".
    """

    groups: Mapping[str, Sequence[Mapping[str, str]]]
    tables: Mapping[str, Mapping[Any, str]]
    templates: Mapping[str, Template]
    unseen: tuple[str, ...]


# Not every build of PyYAML has libyaml's loader, which reads the same documents ten times as fast.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """PyYAML's safe subset, in which a key that stands twice is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if len(keys) > len(set(keys)):
            raise Fault(f"{next(key for key in keys if keys.count(key) > 1)} stands twice")
        return super().construct_mapping(node, deep)


def load(folder: Traversable) -> World:
    """The world of a folder: `world.yaml` and all of `templates/*.yaml`, in the order of their names.

    Raises `InputError` naming the file, and the template where there is one, for a fault of the data.
    """
    data = _read(folder / "world.yaml")
    groups = {key: [_word(many, a=a) for a, many in nouns.items()] for key, nouns in data["nouns"].items()}
    groups["person"] = [
        _word(name, **forms) for names, forms in data["people"].items() for name in names.split()
    ]
    templates: dict[str, Template] = {}
    for path in sorted((folder / "templates").iterdir(), key=lambda path: path.name):
        for name, said in _read(path).items() if path.name.endswith(".yaml") else ():
            try:
                if name in templates:
                    raise Fault(f"{templates[name].where} has a template of this name")
                _check(said, _TEMPLATE)
                if missing := {"category", "forms"} - set(said):
                    raise Fault(f"{min(missing)} is missing")
            except Fault as fault:
                raise InputError(f"{path.name}: template {name}: {fault}") from fault
            templates[name] = Template(path.name, said["category"], said)
    if unknown := [name for name in data["unseen"] if name not in templates]:
        raise InputError(f"world.yaml: unseen: there is no template {unknown[0]}")
    tables = {f"|{name}": table for name, table in data["tables"].items()}
    return World(groups, tables, templates, tuple(data["unseen"]))


def _word(text: str, **forms: str) -> dict[str, str]:
    """A word with its forms; `.He` is the form `.he` with a capital letter."""
    capitals = {f".{form.capitalize()}": text[0].upper() + text[1:] for form, text in forms.items()}
    return {"": text} | {f".{form}": text for form, text in forms.items()} | capitals


def _read(path: Traversable) -> dict[str, Any]:
    try:
        data = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (yaml.YAMLError, Fault) as error:
        raise InputError(f"{path.name}: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path.name}: must hold a mapping of names")
    return data


def _check(data: Any, kinds: Mapping[str, type], known: frozenset[str] = frozenset({"aside"})) -> None:
    """Every operation is known and has the kind of value it takes, and no name of `known` is given again."""
    if not isinstance(data, dict):
        raise Fault("must be a mapping of operations")
    for key, value in data.items():
        if key not in kinds:
            raise Fault(f"unknown operation {key!r}; the operations are {', '.join(kinds)}")
        if type(value) is not kinds[key] or value in ("", [], {}):
            raise Fault(f"{key} must be {_KINDS[kinds[key]]}")
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if wrong := [entry for entry in entries if type(entry) not in _ENTRIES.get(key, {str})]:
            raise Fault(f"{key} cannot hold {wrong[0]!r}; put a text in quotation marks")
        for name in value if isinstance(value, dict) else ():
            if not isinstance(name, str):
                raise Fault(f"{key}: put the name {name!r} in quotation marks")
            names = frozenset(name.split(", "))
            if known & names:
                raise Fault(f"{key}: {name} has a value already")
            known |= names
    if "whether" in data and len(data.get("either", ())) != 2:
        raise Fault("whether needs either with two cases: where it does not hold, and where it does")
    for case in data.get("either", ()):
        _check(case, _CASE, known)
