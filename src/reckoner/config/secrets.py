"""No setting may hold a secret: settings are written into every run and printed in every report."""

from __future__ import annotations

import os
import re

from reckoner.errors import InputError

_NAMES = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|_KEY$", re.IGNORECASE)
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}|\bsk-[\w-]{16,}|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}"
    r"|\b(AKIA|ASIA)[A-Z0-9]{12,}"
    r"|://[^/\s]*:[^/\s]*@|-----BEGIN [A-Z ]*PRIVATE KEY"
)
ADVICE = (
    "holds what looks like a secret, and settings are kept. Put it into the environment (as HF_TOKEN) instead"
)
_SHORTEST = 8
"""Characters: a value below that is found in innocent text."""


def holds_secret(text: str) -> bool:
    """Whether `text` looks like a token, or contains the value of a secret environment variable."""
    values = (value for name, value in os.environ.items() if _NAMES.search(name) and len(value) >= _SHORTEST)
    return bool(_SHAPES.search(text)) or any(value in text for value in values)


def refuse_secret(name: str, text: str) -> str:
    """Return `text`; where it holds a secret, raises `InputError` that names the setting, not the value."""
    if holds_secret(text):
        raise InputError(f"{name} {ADVICE}")
    return text
