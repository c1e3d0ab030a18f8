"""A data set as data: one YAML file says where its problems come from and how a row becomes a problem.

Its sections `data`, `task`, `prompt` and `eval` are ordinary settings; they lie right under the file, the arm
or the command line that names the set with `data.suite`. `about` holds what is known of it (title, licence,
source, counts, sha256 of files, faults). A set may come in `parts`, each with settings of its own: `mgsm/de`.
`suite` names another set to start from.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from reckoner.config.layers import Layer, nearest, read_file, read_layer
from reckoner.errors import InputError
from reckoner.runs.records import fit

SUITES = resources.files("reckoner.tasks").joinpath("suites")
SECTIONS = ("data", "task", "prompt", "eval")


class About(TypedDict, total=False):
    """What is known of a set; `counts` are of its splits, and `sha256` of its files by their titles."""

    title: str
    licence: str
    source: str
    faults: str
    counts: dict[str, Annotated[int, msgspec.Meta(ge=1, le=10**12)]]
    sha256: dict[str, str]


class Part(TypedDict, total=False):
    """What a part of a set says beside its settings."""

    about: About


class Document(Part, total=False):
    """What the file of a set says beside its settings."""

    suite: str
    parts: dict[str, Part]


@dataclass(frozen=True)
class Suite:
    """One set, or one part of it, by the name that `data.suite` takes."""

    name: str
    layer: Layer
    origins: dict[str, str] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)


def suite_names() -> list[str]:
    """Every set that is shipped, and every part of it, in order."""
    names = []
    for file in sorted(SUITES.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".yaml"):
            name = file.name.removesuffix(".yaml")
            names += [name, *(f"{name}/{part}" for part in _document(name)[0].get("parts", {}))]
    return names


@lru_cache(maxsize=64)
def read_suite(name: str) -> Suite:
    """The set `name`: one that is shipped, a part as `mgsm/de`, or a file of the user's that ends in .yaml.

    `svamp=FILE` is the shipped set, whose test is read from the user's own copy. Raises `InputError` for an
    unknown name or part and for keys that no suite has.
    """
    return _read(name, ())


def _read(name: str, above: tuple[str, ...]) -> Suite:
    """The set `name`, from which those `above` start."""
    if name in above:
        raise InputError(f"{' starts from '.join((*above, name))}: a set cannot start from itself")
    if "=" in name and not name.endswith((".yaml", ".yml")):
        known, _, copied = name.partition("=")
        if not copied:
            raise InputError(f"data.suite={name} names no file. Write {known}=FILE, or {known} alone")
        suite = _read(known, above)
        data = {**suite.layer.get("data", {}), "test_path": copied}
        return replace(suite, layer={**suite.layer, "data": data})
    file, _, part = (name, "", "") if name.endswith((".yaml", ".yml")) else name.partition("/")
    document, origins = copy.deepcopy(_document(file))
    base = document.pop("suite", "")
    parts = document.pop("parts", {})
    if part and part not in parts:
        raise InputError(f"data.suite={name}: {file} has the parts {', '.join(parts) or 'none'}, not {part}")
    under = _read(base, (*above, name)) if base else Suite("", {})
    about = {**under.about, **document.pop("about", {})}
    layer: Layer = copy.deepcopy(under.layer)
    for settings in (document, parts.get(part, {})):
        for section, values in settings.items():
            if section == "about":
                about |= values
            elif section not in SECTIONS or not isinstance(values, dict):
                known = f"{', '.join(SECTIONS)}, about, parts and suite"
                raise InputError(f"{file}: {section} is no section of a suite; {known} are")
            else:
                layer[section] = {**layer.get(section, {}), **values}
    shown = name if file in name and not file.endswith((".yaml", ".yml")) else Path(file).stem
    return Suite(shown, layer, origins, about)


@lru_cache(maxsize=1)
def known_files() -> dict[str, tuple[str, str]]:
    """The set and the title of each known data file by its sha256."""
    return {
        digest: (suite.name.partition("/")[0], title)
        for suite in map(read_suite, suite_names())
        for title, digest in suite.about.get("sha256", {}).items()
    }


@lru_cache(maxsize=64)
def _document(file: str) -> tuple[Layer, dict[str, str]]:
    if file.endswith((".yaml", ".yml")):
        named, text = file, read_file(Path(file), "data.suite")
    else:
        path = SUITES.joinpath(f"{file}.yaml")
        if not (file.replace("-", "").isalnum() and path.is_file()):
            names = sorted(one.name.removesuffix(".yaml") for one in SUITES.iterdir())
            raise InputError(
                f"data.suite={file} is not a known set{nearest(file, names)}. `reckon data suites` lists "
                "them; a file of your own ends in .yaml"
            )
        named, text = f"suites/{file}.yaml", path.read_text(encoding="utf-8")
    document, origins = read_layer(text, named)
    fit(document, Document, named)
    return document, origins
