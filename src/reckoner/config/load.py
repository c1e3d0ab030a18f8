"""Preset + files + `section.key=value`, later wins; strict keys, typed values.

A layer is a plain nested mapping. Every layer is checked against the dataclasses before it is merged, so a
typo is an error that names the nearest key and the line it stands on, and no default can hide it. Text values
are literal: nothing in them is expanded. Secrets have no key here; they come from the environment only.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import yaml

from reckoner.config.dialect import TEXT, Loader
from reckoner.config.schema import ArmConfig, Config, StudyConfig
from reckoner.config.secrets import ADVICE, holds_secret
from reckoner.errors import InputError
from reckoner.runs.safe_paths import regular_file

Layer = dict[str, Any]
LARGEST, DEEPEST = 1_000_000, 20
"""Bytes of a file of settings and levels in it; PyYAML takes minutes over more."""

LARGEST_NUMBER = 2**32 - 1
"""No setting has a use for more, and epochs or sizes beyond it overflow."""

PRESETS = resources.files("reckoner.presets")

RENAMED = {
    "rollout.format_weight": ("rollout", "reward_weights", "format"),
    "rollout.arithmetic_weight": ("rollout", "reward_weights", "arithmetic"),
}
"""Settings of earlier versions, which stand in run folders, and where they stand now."""

SECTIONS: dict[str, Any] = {
    f.name: f.default_factory for f in dataclasses.fields(Config) if f.name != "preset"
}


def load_config(
    preset: str = "", files: Iterable[Path] = (), overrides: Iterable[str] = (), between: Iterable[Layer] = ()
) -> Config:
    """Merge a preset, YAML files and `section.key=value` strings; later ones win.

    Raises one `InputError` that names every fault.

    `between` are nested mappings that go over the preset and under the files.
    """
    layers: list[tuple[Layer, dict[str, str]]] = []
    if preset:
        layers += _preset_layers(preset)
    layers += [(layer, {}) for layer in between]
    layers += [read_layer(_read(path), str(path)) for path in files]
    layers += [parse_override(text) for text in overrides]
    return build_config(layers, preset)


def preset_names() -> list[str]:
    """Every YAML file in `presets/` is a preset, by the name of the file."""
    return sorted(p.name.removesuffix(".yaml") for p in PRESETS.iterdir() if p.name.endswith(".yaml"))


def build_config(layers: Sequence[tuple[Layer, dict[str, str]]], preset: str = "") -> Config:
    """Check and merge layers, each a nested mapping with the place of every dotted key ("file:line")."""
    layers = [(_renamed(layer), origins) for layer, origins in layers]
    faults = [fault for layer, origins in layers for fault in _faults(layer, Config, "", origins)]
    if faults:
        raise InputError("\n".join(faults))
    merged: Layer = {}
    for layer, _ in layers:
        _merge(merged, layer)
    config = msgspec.convert(merged, Config)
    config.preset = preset or config.preset
    if faults := list(
        _range_faults(config, "", {key: at for _, origins in layers for key, at in origins.items()})
    ):
        raise InputError("\n".join(faults))
    if config.data.question_field == config.data.solution_field:
        field = config.data.question_field
        raise InputError(
            f"data.question_field and data.solution_field are both {field!r}: the prompt would show the "
            "solution"
        )
    return config


def _renamed(layer: Layer) -> Layer:
    """`layer` with the settings of earlier versions under the names that they have now."""
    layer = copy.deepcopy(layer)
    for old, path in RENAMED.items():
        section, _, name = old.partition(".")
        if isinstance(layer.get(section), dict) and name in layer[section]:
            value = layer[section].pop(name)
            for key in reversed(path):
                value = {key: value}
            _merge(layer, value)
    study = layer.get("study")
    arms = study.get("arms") if isinstance(study, dict) else None
    for arm in arms.values() if isinstance(arms, dict) else ():
        if isinstance(arm, dict) and isinstance(arm.get("set"), dict):
            arm["set"] = _renamed(arm["set"])
    return layer


def _merge(into: Layer, layer: Layer) -> Layer:
    """Put a copy of `layer` over `into`, mappings key by key, and return `into`."""
    for key, value in layer.items():
        both = isinstance(value, dict) and isinstance(into.get(key), dict)
        into[key] = _merge(into[key], value) if both else copy.deepcopy(value)
    return into


def read_layer(text: str, name: str) -> tuple[Layer, dict[str, str]]:
    """Parse one YAML document of settings: safe subset, no anchors, no tags, no key twice."""
    root = _compose(text, name)
    if root is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{name}: expected sections such as 'train:', found {text.strip()[:40]!r}")
    reader = _Reader(name)
    layer = reader.mapping(root, ())
    if reader.faults:
        raise InputError("\n".join(reader.faults))
    return layer, reader.origins


def parse_override(text: str) -> tuple[Layer, dict[str, str]]:
    """Parse `section.key=value` as typed; dashes in a key count as underscores, except in arm names.

    A setting of type text, or an item of a list of texts, is taken as typed. Every other value is YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key or key.count(".") > DEEPEST:
        raise InputError(f"{text[:80]}: expected section.key=value, for example train.learning_rate=1e-4")
    if not key.startswith("study.arms."):
        key = key.lstrip("-").replace("-", "_")
    path = tuple(key.split("."))
    declared = _declared(path)
    parsed: Any = value
    if declared != "str":
        reader, node = _Reader(key), _compose(value, key)
        parsed = "" if node is None else reader.value(node, path, as_typed=declared == "list[str]")
        if reader.faults:
            raise InputError("\n".join(reader.faults))
    for name in reversed(path):
        parsed = {name: parsed}
    return parsed, {key: "on the command line"}


def _compose(text: str, name: str) -> yaml.Node | None:
    """The one document in `text`, None where it is empty; refuses anchors, tags and great depth."""
    level = 0
    try:
        for event in yaml.parse(text, Loader=Loader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            kinds = {"anchors and aliases": "anchor", "YAML tags": "tag"}
            if used := [kind for kind, attribute in kinds.items() if getattr(event, attribute, None)]:
                raise InputError(
                    f"{name}:{event.start_mark.line + 1}: {used[0]} are not allowed here, write the value out"
                )
            if level > DEEPEST:
                raise InputError(f"{name}:{event.start_mark.line + 1}: more than {DEEPEST} levels deep")
        return yaml.compose(text, Loader=Loader)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(
            f"{name}{line}: not YAML ({reason}). A text with signs of YAML stands in quotes"
        ) from error


def _read(path: Path) -> str:
    try:
        with regular_file(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(
                f"{path}: is larger than {LARGEST:,} bytes, which no file of settings is; it was given with "
                "--config"
            )
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it was given with --config") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; it was given with --config") from error


def _preset_layers(name: str) -> list[tuple[Layer, dict[str, str]]]:
    """The preset's layer, after those of the preset it extends (key `preset`)."""
    if name not in preset_names():
        raise InputError(
            f"{name} is not a preset{nearest(name, preset_names())}. Presets: {', '.join(preset_names())}"
        )
    text = PRESETS.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    layer, origins = read_layer(text, f"presets/{name}.yaml")
    base = layer.pop("preset", "")
    return [*(_preset_layers(base) if base else []), (layer, origins)]


def _declared(path: Sequence[str], kind: Any = Config) -> str:
    """The type of the setting at `path`, as its dataclass writes it; empty where there is none."""
    match path:
        case [section, _, *_] if kind is Config and section in SECTIONS:
            return _declared(path[1:], SECTIONS[section])
        case ["arms", _, _, *_] if kind is StudyConfig:
            return _declared(path[2:], ArmConfig)
        case ["set", _, *_] if kind is ArmConfig:
            return _declared(path[1:])
        case [name]:
            return next((str(f.type) for f in dataclasses.fields(kind) if f.name == name), "")
    return ""


_BOOLEANS = {"on": True, "yes": True, "off": False, "no": False}
"""Words that YAML 1.1 has for true and false, and that are text where the setting is one."""


class _Reader:
    """Makes settings of the nodes of the document `name`; notes the place of each key, and the faults."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.origins: dict[str, str] = {}
        self.faults: list[str] = []

    def mapping(self, node: yaml.MappingNode, path: tuple[str, ...]) -> Layer:
        """A mapping without repeated keys."""
        result: Layer = {}
        for key_node, value_node in node.value:
            at = f"{self.name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise InputError(f"{'.'.join(path) or 'config'}: a key is one word    {at}")
            inner = (*path, str(key_node.value))
            if inner[-1] in result:
                raise InputError(f"{'.'.join(inner)} is given twice    {at}")
            self.origins[".".join(inner)] = at
            result[inner[-1]] = self.value(value_node, inner)
        return result

    def value(self, node: yaml.Node, path: tuple[str, ...], as_typed: bool = False) -> Any:
        """The content of one node.

        Where the setting is a text, other plain scalars are faults unless taken `as_typed`.
        """
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, path, as_typed) for item in node.value]
        at = f"    {self.name}:{node.start_mark.line + 1}"
        declared = _declared(path)
        if declared in ("str", "list[str]"):
            if node.tag != TEXT and not as_typed:
                kind = node.tag.rpartition(":")[2]
                self.faults.append(
                    f"{'.'.join(path)} is a text, and YAML reads {node.value[:40]} as {kind}: "
                    f'put it in quotes, as "{node.value[:40]}"{at}'
                )
            return node.value
        if declared == "bool" and node.value.lower() in _BOOLEANS:
            return _BOOLEANS[node.value.lower()]
        try:
            return Loader("").construct_object(node)
        except ValueError as error:
            raise InputError(f"{'.'.join(path)}: {node.value[:40]!r} is not a valid number{at}") from error


def _faults(layer: Any, kind: Any, prefix: str, origins: dict[str, str]) -> Iterable[str]:
    """Unknown keys and wrong shapes in a layer, one line each."""
    if not isinstance(layer, dict):
        section = prefix.rstrip(".")
        yield f"{section or 'config'} is a section: write {prefix}KEY=value{_at(origins, section)}"
        return
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if key not in known:
            yield f"{path} is not a setting{_did_you_mean(path, kind, prefix)}{_at(origins, path)}"
        elif path == "study.arms" or (kind is ArmConfig and key == "set"):
            if not isinstance(value, dict):
                yield f"{path} is a section: write {path}.KEY=value{_at(origins, path)}"
            elif key == "set":
                run = value.get("run")
                if "study" in value or (isinstance(run, dict) and "output_dir" in run):
                    yield f"{path}: the study itself decides its arms and their folders{_at(origins, path)}"
                    continue
                own = {key.removeprefix(f"{path}."): at for key, at in origins.items()}
                yield from _faults(value, Config, "", own)
            else:
                for arm, content in value.items():
                    yield from _faults(content, ArmConfig, f"{path}.{arm}.", origins)
        elif kind is Config and key in SECTIONS:
            yield from _faults(value, SECTIONS[key], f"{key}.", origins)
        else:
            faults = list(_text_faults(value, path, origins))
            yield from faults or _type_faults(value, str(known[key].type), path, origins)


_TYPES = {
    "str": ((str,), "a text"),
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "list[str]": ((list,), "a list of texts, as [a, b]"),
    "list[float]": ((list,), "a list of numbers, as [0.1, 0.9]"),
    "int | list[int]": ((int, list), "a whole number, or a list of them, as [0, 1, 2]"),
    "dict[str, float]": ((dict,), "a mapping of names to numbers, as {a: 1.5}"),
}
"""Declared type -> (types of its values, what it is called)."""


def _type_faults(value: Any, declared: str, path: str, origins: dict[str, str]) -> Iterable[str]:
    """A line where a value is not of the type of its setting, or is a number that no setting may be."""
    types, name = _TYPES.get(declared, ((type(value),), ""))
    items: Iterable[Any] = [value]
    if declared in _TYPES and type(value) in types and isinstance(value, list | dict):
        contents = {"list[str]": (str,), "int | list[int]": (int,)}
        types = contents.get(declared, (int, float))
        items = value.values() if isinstance(value, dict) else value
    if not all(type(item) in types for item in items):
        yield f"{path}={str(value)[:40]} is not {name}{_at(origins, path)}"
    elif any(isinstance(item, int | float) and not abs(item) <= LARGEST_NUMBER for item in items):
        yield f"{path}={str(value)[:40]} must be finite, and at most {LARGEST_NUMBER:,}{_at(origins, path)}"


def _text_faults(value: Any, path: str, origins: dict[str, str]) -> Iterable[str]:
    """Texts that no setting may hold, one line each; a secret is not repeated."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and holds_secret(text):
            yield f"{path} {ADVICE}{_at(origins, path)}"
        elif isinstance(text, str) and ("\0" in text):
            yield f"{path}={text[:40]!r} is no text for a setting{_at(origins, path)}"


def _range_faults(value: Any, prefix: str, origins: dict[str, str]) -> Iterable[str]:
    """Values outside the choices or bounds of their setting, one line each."""
    for f in dataclasses.fields(value):
        content, path = getattr(value, f.name), f"{prefix}{f.name}"
        at = _at(origins, path)
        choices, low, high = (f.metadata.get(k) for k in ("choices", "low", "high"))
        if dataclasses.is_dataclass(content):
            yield from _range_faults(content, f"{path}.", origins)
        elif f.name == "arms":
            for name, arm in content.items():
                yield from _range_faults(arm, f"{path}.{name}.", origins)
        elif choices and content not in choices:
            yield f"{path}={content} is not one of {', '.join(choices)}{nearest(content, choices)}{at}"
        elif (low is not None and not content >= low) or (high is not None and not content <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            yield f"{path}={content} must be {bounds}{at}"


def setting_names() -> list[str]:
    """Every setting as section.name."""
    return [f"{s}.{f.name}" for s, section in SECTIONS.items() for f in dataclasses.fields(section)]


def _did_you_mean(path: str, kind: Any, prefix: str) -> str:
    here = [f"{prefix}{f.name}" for f in dataclasses.fields(kind)]
    everywhere = {name.rpartition(".")[2]: name for name in setting_names()}
    return nearest(path, here) or nearest(path.rpartition(".")[2], everywhere)


def nearest(word: Any, names: Iterable[str]) -> str:
    """' (did you mean X?)' or nothing; a mapping gives the answer for each name."""
    matches = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.6)
    answer = names[matches[0]] if matches and isinstance(names, dict) else matches[0] if matches else ""
    return f" (did you mean {answer}?)" if answer else ""


def _at(origins: dict[str, str], key: str) -> str:
    return f"    {origins[key]}" if key in origins else ""
