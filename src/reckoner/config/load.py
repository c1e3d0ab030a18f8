"""Preset + files + `section.key=value`, later wins; strict keys, typed values.

A layer is a plain nested mapping. Every layer is checked against the dataclasses before it is merged, so a
typo is an error that names the nearest key and the line it stands on, and no default can hide it. Text values
are literal: nothing in them is expanded. Secrets have no key here; they come from the environment only.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from reckoner.config.layers import (
    SECTIONS,
    TEXTS,
    Layer,
    dotted,
    nearest,
    parse_override,
    read_file,
    read_layer,
    setting_name,
)
from reckoner.config.schema import FIELD_SLOT, ArmConfig, Config, DataConfig
from reckoner.config.secrets import ADVICE, holds_secret
from reckoner.config.suites import read_suite
from reckoner.errors import InputError

LARGEST_NUMBER = 2**32 - 1
"""No setting has a use for more, and epochs or sizes beyond it overflow."""

NO_TEXT = re.compile("[\0\ud800-\udfff]")
"""Halves of a surrogate pair stand for bytes of an argument that are no UTF-8; no tokenizer takes them."""

NO_PRESET = "a preset is chosen as"
"""It lies under all settings, so that it cannot be one of them."""

PRESETS = resources.files("reckoner.presets")

RENAMED = {
    "rollout.format_weight": ("rollout", "reward_weights", "format"),
    "rollout.arithmetic_weight": ("rollout", "reward_weights", "arithmetic"),
}
"""Settings of earlier versions, which stand in run folders, and where they stand now."""


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
    own = [read_layer(read_file(path, "--config"), str(path)) for path in files]
    for layer, origins in own:
        # the configuration of a run holds every section, and all that its preset set
        if "preset" in layer and not layer.keys() >= SECTIONS.keys():
            raise InputError(f"{NO_PRESET} --preset {layer['preset']}{_at(origins, 'preset')}")
    layers += own
    return build_config([*layers, _typed_layer(overrides)], preset)


def typed_settings(overrides: Iterable[str]) -> dict[str, Any]:
    """What `section.key=value` strings set, by the full name of each setting; nothing in it is checked."""
    return dotted(_renamed(_typed_layer(overrides)[0]))


def _typed_layer(overrides: Iterable[str]) -> tuple[Layer, dict[str, str]]:
    """All of what is typed as one layer, later wins."""
    typed: tuple[Layer, dict[str, str]] = ({}, {})
    for text in overrides:
        if setting_name(text) == "preset" or text in preset_names():
            raise InputError(f"{text}: {NO_PRESET} --preset {text.rpartition('=')[2]}")
        layer, origins = parse_override(text)
        _merge(typed[0], layer)
        typed[1].update(origins)
    return typed


def preset_names() -> list[str]:
    """Every YAML file in `presets/` is a preset, by the name of the file."""
    return sorted(p.name.removesuffix(".yaml") for p in PRESETS.iterdir() if p.name.endswith(".yaml"))


def build_config(layers: Sequence[tuple[Layer, dict[str, str]]], preset: str = "") -> Config:
    """Check and merge layers, each a nested mapping with the place of every dotted key ("file:line").

    The settings of a suite lie right under the layer that names it.
    """
    layers = [(_renamed(layer), origins) for layer, origins in layers]
    layers = [under for one in layers for under in (*_suite_layers(one[0]), one)]
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
    _refuse_shown_answer(config)
    chosen = config.eval
    if chosen.select != "none" and (chosen.num_samples == 1 or chosen.temperature == 0):
        raise InputError(
            f"eval.select={chosen.select} chooses among samples that differ, and this draws "
            f"{chosen.num_samples} at temperature {chosen.temperature:g}. "
            "Set eval.num_samples=8 eval.temperature=0.7, or eval.select=none"
        )
    if config.train.optim == "schedule_free_adamw" and config.train.lr_scheduler_type != "constant":
        raise InputError(
            "train.optim=schedule_free_adamw averages weights in the place of a falling rate. "
            "Set train.lr_scheduler_type=constant"
        )
    return config


def _refuse_shown_answer(config: Config) -> None:
    """Raise `InputError` where the question is made of a field that the solution or the gold is made of.

    A solution that repeats the whole question and says more is fine.
    """
    shown = _fields(config.data.question_field)
    answers = {
        "data.solution_field": config.data.solution_field,
        "data.gold_field": config.data.gold_field,
        "task.more_golds_field": config.task.more_golds_field,
    }
    for setting, written in answers.items():
        hidden = _fields(written)
        both = [one for one in shown if any(_within(one, other) or _within(other, one) for other in hidden)]
        if both and not set(shown) < set(hidden):
            raise InputError(
                f"data.question_field and {setting} both hold {both[0]!r}: the prompt would show the answer"
            )


def _fields(written: str) -> list[str]:
    """The fields that a setting names: those in the braces of a template, or itself."""
    return FIELD_SLOT.findall(written) or [written] * bool(written)


def _within(path: str, outer: str) -> bool:
    return f"{path}.".startswith(f"{outer}.")


def _suite_layers(layer: Layer) -> list[tuple[Layer, dict[str, str]]]:
    """The settings of the suite that a layer names.

    A stored configuration has all settings of `data`, so that those of its suite are in it already.
    """
    data = layer.get("data")
    if not isinstance(data, dict) or not isinstance(name := data.get("suite"), str) or not name:
        return []
    if data.keys() >= {field.name for field in dataclasses.fields(DataConfig)}:
        return []
    suite = read_suite(name)
    return [(suite.layer, suite.origins)]


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
                if value.keys() & {"study", "preset"} or (isinstance(run, dict) and "output_dir" in run):
                    yield f"{path}: the study itself decides its preset, arms and folders{_at(origins, path)}"
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
    "str | list[str]": ((str, list), "a text, or a list of them, as [a, b]"),
    "list[float]": ((list,), "a list of numbers, as [0.1, 0.9]"),
    "int | list[int]": ((int, list), "a whole number, or a list of them, as [0, 1, 2]"),
    "dict[str, float]": ((dict,), "a mapping of names to numbers, as {a: 1.5}"),
    "dict[str, Any]": ((dict,), "a mapping of names to values, as {a: 1, b: text}"),
}
"""Declared type of every setting -> (types of its values, what it is called)."""


def _type_faults(value: Any, declared: str, path: str, origins: dict[str, str]) -> Iterable[str]:
    """A line where a value is not of the type of its setting, or is a number that no setting may be."""
    types, name = _TYPES[declared]
    items: Iterable[Any] = [value]
    if type(value) in types and isinstance(value, list | dict):
        items = list(value.values()) if isinstance(value, dict) else value
        contents: dict[str, tuple[type, ...]] = dict.fromkeys(TEXTS, (str,))
        contents |= {"int | list[int]": (int,), "dict[str, Any]": (*map(type, items),)}
        types = contents.get(declared, (int, float))
    if not all(type(item) in types for item in items):
        yield f"{path}={str(value)[:40]} is not {name}{_at(origins, path)}"
    elif any(isinstance(item, int | float) and not abs(item) <= LARGEST_NUMBER for item in items):
        yield f"{path}={str(value)[:40]} must be finite, and at most {LARGEST_NUMBER:,}{_at(origins, path)}"


def _text_faults(value: Any, path: str, origins: dict[str, str]) -> Iterable[str]:
    """Texts that no setting may hold, one line each; a secret is not repeated."""
    for text in _texts(value):
        if holds_secret(text):
            yield f"{path} {ADVICE}{_at(origins, path)}"
        elif NO_TEXT.search(text):
            yield f"{path}={text[:40]!r} is no text for a setting{_at(origins, path)}"


def _texts(value: Any) -> Iterator[str]:
    """Every text in the value of a setting, also among the keys and values of a mapping."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value:
            yield from _texts(item)
        if isinstance(value, dict):
            yield from _texts(list(value.values()))


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
        elif choices:
            for one in content if isinstance(content, list) else [content]:
                if one not in choices:
                    yield f"{path}={one} is not one of {', '.join(choices)}{nearest(one, choices)}{at}"
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


def _at(origins: dict[str, str], key: str) -> str:
    return f"    {origins[key]}" if key in origins else ""
