"""What is installed under which name, from which files, and that a wheel can be built again byte for byte."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import reckoner
from reckoner import machine

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# On PyPI `reckoner` is a Helm tool: whoever installs it, or asks for its version, gets a stranger's.
STRANGER = re.compile(
    r"""(?x) (?: pip[ ]install | pip[ ]download | pipx[ ]install | uv[ ]add | uv[ ]tool[ ]install ) [^\n`]*
             (?<![\w./-]) reckoner (?![\w./-])
        | \b reckoner \[ \w+ [\],]
        | \b (?: version | requires | metadata | distribution ) \( ["']reckoner["'] \)
        | ^ reckoner [ ]* [=<>~]= """
)


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout: git lists no files")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


@pytest.mark.parametrize(
    ("line", "strange"),
    [
        ("pip install 'reckoner[gpu]'", True),
        ("pip install reckoner", True),
        ("`python -m pip install -U reckoner`", True),
        ("needs reckoner[bench]", True),
        ('metadata.version("reckoner")', True),
        ("reckoner==0.1.0", True),
        ("pip install 'reckonlab[gpu]'", False),
        ("pip install ./reckoner", False),
        ("pip install reckonlab  # import reckoner", False),
        ("pip install bitsandbytes", False),
        ("found[reckoner] = reckoner.version()", False),
    ],
)
def test_a_line_that_installs_the_stranger_is_known(line, strange):
    line, _, _ = line.partition("  #")
    assert bool(STRANGER.search(line)) is strange


def test_no_file_sends_anybody_to_the_project_of_the_same_name():
    text = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".cff", ".j2", ".cfg", ""}
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in tracked()
        if path.suffix in text and path.is_file() and path != Path(__file__)
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if STRANGER.search(line)
    ]
    assert found == []


def test_the_distribution_has_a_name_of_its_own_and_the_version_of_the_code():
    assert PROJECT["project"]["name"] == "reckonlab"
    assert PROJECT["project"]["scripts"] == {"reckon": "reckoner.__main__:main"}
    assert PROJECT["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "reckoner.__version__"}}


def test_the_version_in_a_run_is_that_of_the_code_whatever_is_installed(monkeypatch):
    def installed(name: str) -> str:
        return "5.0.5"  # as a stranger's `reckoner` would answer

    monkeypatch.setattr(machine.metadata, "version", installed)
    assert machine.versions(("reckoner", "torch")) == {"reckoner": reckoner.__version__, "torch": "5.0.5"}
