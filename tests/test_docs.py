"""The documents name verbs, options and settings that exist, and pages of the site that are there."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
import yaml

from reckoner.cli import app
from reckoner.config.load import SECTIONS, setting_names
from scripts import site_hook

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ROOT = Path(__file__).parent.parent
PAGES = sorted(
    page for page in (ROOT / "docs").rglob("*.md") if page.name not in ("records.md", "settings.md")
)
FREE = (
    "study.cluster.",
    "study.arms.",
    "prompt.chat_template_kwargs.",
    "rollout.reward_weights.",
    "endpoint.extra.",
)
"""Settings that hold names of the user's own."""
COMMANDS = typer.main.get_command(app).commands


@cache
def functions() -> set[str]:
    """The functions of methods as the pages call them: `grpo.policy_loss`."""
    folder = ROOT / "src" / "reckoner" / "algorithms"
    return {
        f"{path.stem}.{node.name}"
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_verbs_options_and_settings_exist(page):
    text = page.read_text(encoding="utf-8")
    for line in re.findall(r"^reckon [^#\n]*|`reckon [^`]*`", text, re.MULTILINE):
        words = line.strip("`").split()[1:]
        if not words or words[0].isupper() or words[0].startswith("-"):
            continue
        command = COMMANDS[words[0]]
        command = command.commands[words[1]] if hasattr(command, "commands") else command
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, line
    sections = "|".join(SECTIONS)
    named = set(re.findall(rf"\b((?:{sections})\.[a-z_.]+[a-z])(?==|`)", text))
    named = {name for name in named if not name.endswith((".jsonl", ".py")) and not name.startswith(FREE)}
    assert named <= {*setting_names(), *functions()}


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


def test_the_dockerfile_runs_the_study_of_the_makefile_on_packages_checked_by_hash():
    text = (ROOT / "Dockerfile").read_text()
    packages, torch, ours = (
        install.split("\n")[0] for install in text.split("pip install --no-cache-dir ")[1:]
    )
    assert "--no-deps --require-hashes -r" in packages and "^torch==" in torch and "--no-deps" in ours
    chosen = re.search(r"awk '([^']+)' /tmp/requirements.txt", text)[1]
    hashed = subprocess.run(
        ["awk", chosen, "requirements.txt"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    names = set(re.findall(r"^([a-z0-9-]+)==", hashed, re.MULTILINE))
    assert {"transformers", "peft", "numba", "jinja2", "setuptools"} <= names and not {
        "torch",
        "ruff",
    } & names
    (line,) = (line for line in text.splitlines() if line.startswith("CMD "))
    words = json.loads(line.removeprefix("CMD "))
    words += ["--dry-run", "--no-print-directory"]  # where a `make` runs this test, its own names the folder
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "/usr/local/bin/reckon study --preset nano\n"


RESULTS = {
    "LoRA SFT": "lora-main",
    "full SFT": "full-main",
    "PPO from full SFT": "ppo",
    "GRPO from full SFT": "grpo",
    "more SFT with GRPO's compute": "grpo-more-sft",
    "SFT on own right samples with GRPO's compute": "grpo-rejection",
}
"""The rows of the README's table of results, each with its arm of the stored study."""


def test_the_results_of_the_readme_are_those_of_the_stored_study():
    stored = json.loads((ROOT / "benchmarks" / "results" / "study-nano-seeds.json").read_text())["comparison"]
    arms, n = {arm["name"]: arm for arm in stored["arms"]}, stored["n"]
    text = (ROOT / "README.md").read_text()
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.count("|") == 6
    ]
    rows = {row[0]: row[1:] for row in table}
    assert f"right of {n:,}" in text
    for title, name in RESULTS.items():
        arm = arms[name]
        solved = round(arm["accuracy"] * n)
        span = f"{100 * arm['low']:.1f}-{100 * arm['high']:.1f}"
        each = " ".join(f"{100 * seed['correct'] / n:.1f}" for seed in arm["seeds"])
        assert rows[title] == [f"{solved:,}", f"{100 * arm['accuracy']:.1f} %", span, each], title
    prompts = [arm for name, arm in arms.items() if name.startswith("prompt-")]
    best = max(max(arm["accuracy"], arm["flexible"]) for arm in prompts)
    (asked,) = (row for title, row in rows.items() if title.startswith("best of"))
    assert asked[:2] == [f"{round(best * n):,}", f"{100 * best:.1f} %"]


def test_no_page_of_the_site_loads_a_script_from_another_host():
    page = SimpleNamespace(url="methods/ppo.html")
    assert site_hook.on_post_page(f"<p>{site_hook.REMOTE}", page, None) == (
        '<p><script src="../search_from_files.js"></script>'
    )
    assert site_hook.on_post_template(f"<p>{site_hook.REMOTE}", "404.html", None) == "<p>"
    with pytest.raises(ValueError, match="another host"):
        site_hook.on_post_page('<script src="https://example.org/x.js"></script>', page, None)
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["hooks"] == ["scripts/site_hook.py"] and (ROOT / "docs" / site_hook.OURS).is_file()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)")
def test_a_worker_answers_on_a_page_from_a_file(tmp_path):
    """As the search does: the worker is asked before it is there, and loads another file first."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    (tmp_path / "other.js").write_text("self.factor = 6;")
    (tmp_path / "worker.js").write_text(
        "addEventListener('message', async (asked) => {"
        " await importScripts('other.js'); postMessage(self.factor * asked.data); });"
    )
    script = (ROOT / "docs" / site_hook.OURS).read_text(encoding="utf-8")
    (tmp_path / "page.html").write_text(
        f"<body><p></p><script>{script}</script><script>const worker = new Worker('worker.js');"
        "worker.onmessage = (said) => { document.querySelector('p').textContent = said.data; };"
        "worker.postMessage(7);</script>"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_text("42", exact=True).wait_for(timeout=30_000)
        assert page.locator("p").text_content() == "42"
        browser.close()
