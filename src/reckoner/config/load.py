"""Preset + files + `section.key=value`, later wins; strict keys, typed values.

A layer is a plain nested mapping. Every layer is checked against the dataclasses before it is merged, so a typo is an
error that names the nearest key and the line it stands on, and no default can hide it. Text values are literal:
`${...}` in a prompt is text, never an interpolation. Secrets have no key here; they come from the environment only.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from reckoner.config.secrets import holds_secret
from reckoner.config.sections import ArmConfig, Config
from reckoner.faults import InputError
from reckoner.places import regular_file

Layer = dict[str, Any]
LARGEST, DEEPEST = 1_000_000, 20
"""Bytes of a file of settings and levels in it; PyYAML takes minutes over more."""

SECTIONS = {f.name: f.default_factory for f in dataclasses.fields(Config) if f.name != "preset"}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe subset without dates and with YAML 1.2's booleans, so that `chat_template: off` is the word it looks like."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, form)
        for tag, form in forms
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false", re.IGNORECASE), list("tTfF"))


def load_config(
    preset: str = "", files: Iterable[Path] = (), overrides: Iterable[str] = (), between: Iterable[Layer] = ()
) -> Config:
    """Merge a preset, YAML files and `section.key=value` strings, left to right; raises one `InputError` naming every fault.

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
    return sorted(
        p.name.removesuffix(".yaml")
        for p in resources.files("reckoner.presets").iterdir()
        if p.name.endswith(".yaml")
    )


def build_config(layers: Sequence[tuple[Layer, dict[str, str]]], preset: str = "") -> Config:
    """Check and merge layers, each a nested mapping with the place of every dotted key ("file:line")."""
    faults = [fault for layer, places in layers for fault in _faults(layer, Config, "", places)]
    if faults:
        raise InputError("\n".join(faults))
    merged = OmegaConf.structured(Config)
    for layer, places in layers:
        try:
            merged = OmegaConf.merge(merged, _literal(layer))
        except OmegaConfBaseException as error:
            raise _unfit(error, places) from error
    try:
        config: Config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise _unfit(error, {}) from error
    config.preset = preset or config.preset
    if faults := list(
        _range_faults(config, "", {key: at for _, places in layers for key, at in places.items()})
    ):
        raise InputError("\n".join(faults))
    return config


def _unfit(error: OmegaConfBaseException, places: dict[str, str]) -> InputError:
    key = error.full_key or ""
    return InputError(f"{key}: {str(error).splitlines()[0]}{_at(places, key)}")


def read_layer(text: str, name: str) -> tuple[Layer, dict[str, str]]:
    """Parse one YAML document of settings: safe subset, no anchors, no tags, no key twice."""
    root = _compose(text, name)
    if root is None:
        return {}, {}
    if not isinstance(root, yaml.MappingNode):
        raise InputError(f"{name}: expected sections such as 'train:', found {text.strip()[:40]!r}")
    places: dict[str, str] = {}
    return _construct(root, "", name, places), places


def parse_override(text: str) -> tuple[Layer, dict[str, str]]:
    """Parse `section.key=value` as typed on the command line; dashes in a key count as underscores, except in arm names."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise InputError(f"{text[:80]}: expected section.key=value, for example train.learning_rate=1e-4")
    if not key.startswith("study.arms."):
        key = key.lstrip("-").replace("-", "_")
    node = _compose(value, key)
    parsed = "" if node is None else _value(node, f"{key}.", key, {})
    for part in reversed(key.split(".")):
        parsed = {part: parsed}
    return parsed, {key: "on the command line"}


def _compose(text: str, name: str) -> yaml.Node | None:
    """The one document in `text`, without anchors, tags and depths that settings never have; None where it is empty."""
    level = 0
    try:
        for event in yaml.parse(text, Loader=_Loader):
            level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            kinds = {"anchors and aliases": "anchor", "YAML tags": "tag"}
            if used := [kind for kind, attribute in kinds.items() if getattr(event, attribute, None)]:
                raise InputError(
                    f"{name}:{event.start_mark.line + 1}: {used[0]} are not allowed here, write the value out"
                )
            if level > DEEPEST:
                raise InputError(f"{name}:{event.start_mark.line + 1}: more than {DEEPEST} levels deep")
        return yaml.compose(text, Loader=_Loader)
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
                f"{path}: is larger than {LARGEST:,} bytes, which no file of settings is; it was given with --config"
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
            f"{name} is not a preset{_nearest(name, preset_names())}. Presets: {', '.join(preset_names())}"
        )
    text = resources.files("reckoner.presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    layer, places = read_layer(text, f"presets/{name}.yaml")
    base = layer.pop("preset", "")
    return [*(_preset_layers(base) if base else []), (layer, places)]


def _construct(node: yaml.MappingNode, prefix: str, name: str, places: dict[str, str]) -> Layer:
    result: Layer = {}
    for key_node, value_node in node.value:
        at = f"{name}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise InputError(f"{prefix or 'config'}: a key is one word    {at}")
        key = str(key_node.value)
        if key in result:
            raise InputError(f"{prefix}{key} is given twice    {at}")
        places[prefix + key] = at
        result[key] = _value(value_node, f"{prefix}{key}.", name, places)
    return result


def _value(node: yaml.Node, prefix: str, name: str, places: dict[str, str]) -> Any:
    """The content of one node, its mappings without repeated keys."""
    if isinstance(node, yaml.MappingNode):
        return _construct(node, prefix, name, places)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, prefix, name, places) for item in node.value]
    try:
        return _Loader("").construct_object(node)
    except ValueError as error:
        raise InputError(
            f"{prefix.rstrip('.')}: {node.value[:40]!r} is no number that can be read    {name}:{node.start_mark.line + 1}"
        ) from error


def _faults(layer: Any, kind: Any, prefix: str, places: dict[str, str]) -> Iterable[str]:
    """Unknown keys and wrong shapes in a layer, one line each."""
    if not isinstance(layer, dict):
        yield f"{prefix.rstrip('.') or 'config'} is a section: write {prefix}KEY=value{_at(places, prefix.rstrip('.'))}"
        return
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key, value in layer.items():
        path = f"{prefix}{key}"
        if key not in known:
            yield f"{path} is not a setting{_did_you_mean(path, kind, prefix)}{_at(places, path)}"
        elif path == "study.arms" or (kind is ArmConfig and key == "set"):
            if not isinstance(value, dict):
                yield f"{path} is a section: write {path}.KEY=value{_at(places, path)}"
            elif key == "set":
                yield from _faults(
                    value, Config, "", {k.removeprefix(f"{path}."): v for k, v in places.items()}
                )
            else:
                for arm, content in value.items():
                    yield from _faults(content, ArmConfig, f"{path}.{arm}.", places)
        elif kind is Config and key in SECTIONS:
            yield from _faults(value, SECTIONS[key], f"{key}.", places)
        else:
            yield from _text_faults(value, path, places)


def _text_faults(value: Any, path: str, places: dict[str, str]) -> Iterable[str]:
    """Texts that no setting may hold, one line each; a secret is not repeated."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and holds_secret(text):
            yield f"{path} holds what looks like a secret, and settings are kept. Put it into the environment (as HF_TOKEN) instead{_at(places, path)}"
        elif isinstance(text, str) and ("\0" in text or text == "???"):
            yield f"{path}={text[:40]!r} is no text for a setting{_at(places, path)}"


def _range_faults(value: Any, prefix: str, places: dict[str, str]) -> Iterable[str]:
    """Values outside the choices or bounds of their setting, one line each."""
    for f in dataclasses.fields(value):
        content, path = getattr(value, f.name), f"{prefix}{f.name}"
        choices, low, high = (f.metadata.get(k) for k in ("choices", "low", "high"))
        if dataclasses.is_dataclass(content):
            yield from _range_faults(content, f"{path}.", places)
        elif f.name == "arms":
            for name, arm in content.items():
                yield from _range_faults(arm, f"{path}.{name}.", places)
        elif choices and content not in choices:
            yield f"{path}={content} is not one of {', '.join(choices)}{_nearest(content, choices)}{_at(places, path)}"
        elif isinstance(content, float) and math.isinf(content):
            yield f"{path}={content} must be finite{_at(places, path)}"
        elif (low is not None and not content >= low) or (high is not None and not content <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            yield f"{path}={content} must be {bounds}{_at(places, path)}"


def _did_you_mean(path: str, kind: Any, prefix: str) -> str:
    names = [f"{prefix}{f.name}" for f in dataclasses.fields(kind)]
    everywhere = [f"{s}.{f.name}" for s, section in SECTIONS.items() for f in dataclasses.fields(section)]
    return _nearest(path, names) or _nearest(
        path.rsplit(".", 1)[-1], {n.rsplit(".", 1)[-1]: n for n in everywhere}
    )


def _nearest(word: Any, names: Iterable[str]) -> str:
    """' (did you mean X?)' or nothing; a mapping gives the answer for each name."""
    found = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.6)
    answer = names[found[0]] if found and isinstance(names, dict) else found[0] if found else ""
    return f" (did you mean {answer}?)" if answer else ""


def _at(places: dict[str, str], key: str) -> str:
    return f"    {places[key]}" if key in places else ""


def _literal(value: Any) -> Any:
    """Escape what OmegaConf would read as an interpolation, and the backslashes before it, so that text stays text."""
    if isinstance(value, dict):
        return {key: _literal(content) for key, content in value.items()}
    if isinstance(value, list):
        return [_literal(content) for content in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
