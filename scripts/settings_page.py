"""Write docs/settings.md, every verb and every setting, from the code: `python scripts/settings_page.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from reckoner.cli import app
from reckoner.config.describe import described
from reckoner.config.schema import ArmConfig, Config

PAGE = Path(__file__).parent.parent / "docs" / "settings.md"
HEAD = """# Every verb and every setting

This page is written by `python scripts/settings_page.py` from the code. Do not edit it. [guide.md](guide.md)
explains how verbs and settings work together.
"""


def cell(text: str) -> str:
    """`text` on one line, with the signs that would end a cell of a table written out."""
    return " ".join(text.split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell(text) for text in line)} |\n" for line in lines)


def verbs(group: Any, words: str) -> Iterator[tuple[str, Any]]:
    """Each command below `group` with the words that call it; typer's groups hold further commands."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from verbs(command, f"{words} {name}")
        elif not command.hidden:
            yield f"{words} {name}", command


def options(command: Any) -> list[tuple[str, ...]]:
    rows = []
    for one in command.params:
        argument = one.param_type_name == "argument"
        name = (
            one.make_metavar(typer.Context(command))
            if argument
            else ", ".join([*one.opts, *one.secondary_opts])
        )
        rows.append((f"`{name}`", one.help or ""))
    return rows


def settings(section: type, prefix: str) -> str:
    rows = [
        (f"`{one.name}`", one.kind, f"`{one.default}`" if one.default else "", one.allowed, one.doc)
        for one in described(section, prefix)
    ]
    return table(("setting", "type", "default", "allowed", "what it is"), rows)


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Verbs\n"]
    for words, command in verbs(typer.main.get_command(app), "reckon"):
        parts.append(f"### `{words}`\n\n{' '.join((command.help or '').split())}\n")
        if rows := options(command):
            parts.append(table(("argument or option", "what it is"), rows))
    parts.append(
        "## Settings\n\nGive them as `section.key=value` behind a verb, or in a YAML file with `--config`.\n"
    )
    for field in dataclasses.fields(Config):
        if dataclasses.is_dataclass(field.default_factory):
            parts.append(f"### `{field.name}`\n\n{settings(field.default_factory, f'{field.name}.')}")
    parts.append(f"### One arm of a study\n\n{settings(ArmConfig, 'study.arms.NAME.')}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
