"""The documents name verbs, options and settings that exist, and pages of the site that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

from reckoner.cli import app
from reckoner.config.load import SECTIONS, setting_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / name for name in ("index.md", "tutorials.md", "troubleshooting.md", "faq.md")]
COMMANDS = typer.main.get_command(app).commands


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_options_and_settings_exist(page):
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^reckon [^#\n]*|`reckon [^`]*`", text, re.MULTILINE):
        words = line.strip("`").split()[1:]
        if not words or words[0].isupper():
            continue
        command = COMMANDS[words[0]]
        command = command.commands[words[1]] if hasattr(command, "commands") else command
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line
    names = set(setting_names()) | {"rollout.reward_weights.format"}
    sections = "|".join(SECTIONS)
    named = set(re.findall(rf"\b((?:{sections})\.[a-z_.]+[a-z])(?==|`)", text))
    assert {name for name in named if not name.endswith(".jsonl")} <= names


def test_every_page_of_the_site_is_there_and_none_is_left_out():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    named = pages(site["nav"])
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert len(named) == len(set(named)) and set(named) == there
