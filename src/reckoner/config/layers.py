"""YAML documents and `section.key=value` as layers: nested mappings, with the place of each key."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from reckoner.config.dialect import TEXT, Loader
from reckoner.config.schema import ArmConfig, Config, StudyConfig
from reckoner.errors import InputError
from reckoner.runs.safe_paths import regular_file

Layer = dict[str, Any]
LARGEST, DEEPEST = 1_000_000, 20
"""Bytes of a file of settings and levels in it; PyYAML takes minutes over more."""


SECTIONS: dict[str, Any] = {
    f.name: f.default_factory for f in dataclasses.fields(Config) if f.name != "preset"
}


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


TEXTS = ("list[str]", "str | list[str]")
"""Declared types of settings that hold several texts."""


def setting_name(text: str) -> str:
    """The setting that `section.key=value` names; its dashes count as underscores, except in arm names."""
    key = text.partition("=")[0].strip().lstrip("-")
    return key if key.startswith("study.arms.") else key.replace("-", "_")


def parse_override(text: str) -> tuple[Layer, dict[str, str]]:
    """Parse `section.key=value` as typed.

    A setting of type text, or an item of a list of texts, is taken as typed. Every other value is YAML. What
    may be a text or a list is a list where it begins with a bracket.
    """
    key, (_, equals, value) = setting_name(text), text.partition("=")
    if not equals or not key or key.count(".") > DEEPEST:
        if text.endswith((".yaml", ".yml")):
            raise InputError(f"{text[:80]}: a file of settings is given as --config {text[:80]}")
        raise InputError(f"{text[:80]}: expected section.key=value, for example train.learning_rate=1e-4")
    path = tuple(key.split("."))
    declared = _declared(path)
    parsed: Any = value
    if declared != "str" and (declared != "str | list[str]" or value.lstrip().startswith("[")):
        reader, node = _Reader(key), _compose(value, key)
        parsed = "" if node is None else reader.value(node, path, as_typed=declared in TEXTS)
        if reader.faults:
            raise InputError("\n".join(reader.faults))
    for name in reversed(path):
        parsed = {name: parsed}
    return parsed, {key: "on the command line"}


def dotted(layer: Layer, prefix: str = "") -> dict[str, Any]:
    """Every key of a nested mapping as section.key, with its value; sections are among them."""
    found: dict[str, Any] = {}
    for key, value in layer.items():
        found[prefix + key] = value
        if isinstance(value, dict):
            found |= dotted(value, f"{prefix}{key}.")
    return found


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


def read_file(path: Path, given: str) -> str:
    """The text of a file of settings; `given` names the option or setting that named it."""
    try:
        with regular_file(path) as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(
                f"{path}: is larger than {LARGEST:,} bytes, which no file of settings is; it was given with "
                f"{given}"
            )
        return content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); it was given with {given}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text; it was given with {given}") from error


def _declared(path: Sequence[str], kind: Any = Config) -> str:
    """The type of the setting at `path`, as its dataclass writes it; empty where there is none.

    What lies in a mapping of any values is "Any".
    """
    match path:
        case [section, _, *_] if kind is Config and section in SECTIONS:
            return _declared(path[1:], SECTIONS[section])
        case ["arms", _, _, *_] if kind is StudyConfig:
            return _declared(path[2:], ArmConfig)
        case ["set", _, *_] if kind is ArmConfig:
            return _declared(path[1:])
        case [name, *inner]:
            declared = next((str(f.type) for f in dataclasses.fields(kind) if f.name == name), "")
            return declared if not inner else "Any" if declared == "dict[str, Any]" else ""
    return ""


_BOOLEANS = {"on": True, "yes": True, "off": False, "no": False}
"""Words that YAML 1.1 has for true and false, and that are text where the setting is one."""
_COMMENT = re.compile(r"[ \t]+(#.*)")


def _comment(node: yaml.Node) -> str:
    """The comment behind a scalar without quotes, where a text may have been cut; empty where there is none.

    Behind one word, a sign and a space begin a comment that is meant as one.
    """
    end = node.end_mark
    found = _COMMENT.match(end.buffer, end.pointer) if node.style is None else None
    if found is None or (found[1].startswith("# ") and len(node.value.split()) == 1):
        return ""
    return found[1].rstrip("\0 \t\r")


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
        is_text = declared == "str" or declared in TEXTS
        if (is_text or node.tag == TEXT) and (comment := _comment(node)):
            whole = f"{node.value} {comment}".strip().replace("'", "''")
            self.faults.append(
                f"{'.'.join(path)}: YAML takes {comment[:40]} for a comment. Put the text in quotes, as "
                f"'{whole[:80]}', or the comment on a line of its own{at}"
            )
            return node.value
        if is_text:
            if node.tag != TEXT and not as_typed:
                kind = node.tag.rpartition(":")[2]
                self.faults.append(
                    f"{'.'.join(path)} is a text, and YAML reads {node.value[:40]} as {kind}: "
                    f'put it in quotes, as "{node.value[:40]}"{at}'
                )
            return node.value
        switch = declared == "bool" or (declared == "Any" and node.style is None)
        if switch and node.value.lower() in _BOOLEANS:
            return _BOOLEANS[node.value.lower()]
        try:
            return Loader("").construct_object(node)
        except ValueError as error:
            raise InputError(f"{'.'.join(path)}: {node.value[:40]!r} is not a valid number{at}") from error


def nearest(word: Any, names: Iterable[str]) -> str:
    """' (did you mean X?)' or nothing; a mapping gives the answer for each name."""
    matches = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.6)
    answer = names[matches[0]] if matches and isinstance(names, dict) else matches[0] if matches else ""
    return f" (did you mean {answer}?)" if answer else ""
