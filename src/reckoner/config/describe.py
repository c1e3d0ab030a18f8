"""Every setting in words, from the code: for `reckon settings`, docs/settings.md and shell completion."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from reckoner.algorithms import ALGORITHMS
from reckoner.config.layers import SECTIONS, nearest
from reckoner.config.load import setting_names
from reckoner.config.schema import ArmConfig
from reckoner.errors import InputError

COMMON = ("model", "peft", "data", "prompt", "train", "eval", "run")
"""Sections that every training verb reads."""


@dataclasses.dataclass(frozen=True, slots=True)
class Described:
    """One setting: its full name, type, default and bounds as text, and its help."""

    name: str
    kind: str
    default: str
    allowed: str
    doc: str


def described(section: type, prefix: str) -> Iterator[Described]:
    """The settings of one section, each named with the prefix."""
    for field in dataclasses.fields(section):
        value = field.default_factory() if callable(field.default_factory) else field.default
        text = str(value).lower() if isinstance(value, bool) else str(value).replace("'", "")
        text = re.sub(r"\n", r"\\n", value) if isinstance(value, str) else text
        choices, low, high = (field.metadata[key] for key in ("choices", "low", "high"))
        bounds = f"{low} to {high}" if high is not None else "" if low is None else f"{low} or more"
        allowed = ", ".join(choices) if choices else bounds
        yield Described(f"{prefix}{field.name}", str(field.type), text, allowed, field.metadata["doc"])


def every_setting() -> list[Described]:
    """All settings, those of an arm last."""
    own = [one for name, section in SECTIONS.items() for one in described(section, f"{name}.")]
    return own + list(described(ArmConfig, "study.arms.NAME."))


def settings_about(word: str) -> list[Described]:
    """The settings whose name or help holds a word, or those that a training verb reads; all without a word.

    Raises `InputError` where there is none.
    """
    settings = every_setting()
    if word in ALGORITHMS:
        method = ALGORITHMS[word]
        sections = {*COMMON, method.section, "rollout" if method.needs_rollouts else ""}
        return [one for one in settings if one.name.partition(".")[0] in sections]
    found = [one for one in settings if word in one.name] or [
        one for one in settings if word.lower() in one.doc.lower()
    ]
    if not found:
        raise InputError(f"no setting is about {word}{nearest(word, setting_names())}. See: reckon settings")
    return found
