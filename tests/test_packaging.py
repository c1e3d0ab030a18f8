"""What is installed under which name, from which files, and that a wheel can be built again byte for byte."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

import reckoner
from reckoner import machine
from reckoner.errors import EXTRAS

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

    monkeypatch.setattr("importlib.metadata.version", installed)
    assert machine.versions(("reckoner", "torch")) == {"reckoner": reckoner.__version__, "torch": "5.0.5"}


def pins(name: str) -> dict[str, str]:
    """Package to version of every `package==version` line, names as an index normalises them."""
    lines = re.findall(r"^([\w.-]+)==([^\s;\\]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def extra(name: str) -> list[str]:
    """What an extra needs, those extras of ours that it names included."""
    needs = []
    for need in PROJECT["project"]["optional-dependencies"][name]:
        ours = re.fullmatch(r"reckonlab\[(.*)\]", need)
        needs += [inner for part in ours[1].split(",") for inner in extra(part)] if ours else [need]
    return needs


def test_what_a_missing_package_is_told_to_be_in_is_in_that_extra():
    for package, name in EXTRAS.items():
        if package != "huggingface_hub":  # which transformers and datasets bring
            assert package in [re.match(r"[\w-]+", need)[0].replace("-", "_") for need in extra(name)]


def test_the_judge_alone_needs_nothing_that_runs_a_model():
    needs = {re.match(r"[\w-]+", need)[0] for need in PROJECT["project"]["dependencies"]}
    assert needs == {"msgspec", "pyyaml", "typer", "rich", "numpy", "matplotlib", "jinja2"}
    assert not needs & EXTRAS.keys()


def test_what_is_installed_by_hash_are_the_pinned_versions():
    """`make lock` after a change of constraints.txt or of what pyproject.toml needs."""
    pinned, locked = pins("constraints.txt"), pins("requirements.txt")
    assert {name: locked.get(name) for name in pinned} == pinned
    project = PROJECT["project"]
    for need in project["dependencies"] + extra("test"):
        assert re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", need)[0]).lower() in locked


def test_every_locked_package_has_the_hashes_of_its_files():
    blocks = re.split(r"^(?=[a-z])", (ROOT / "requirements.txt").read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pins("requirements.txt")) > 80
    without = [block.split()[0] for block in blocks if not re.findall(r"--hash=sha256:[0-9a-f]{64}\b", block)]
    assert without == []


def test_the_build_backend_is_pinned_and_is_the_one_of_the_tests():
    assert PROJECT["build-system"]["requires"] == [f"setuptools=={pins('constraints.txt')['setuptools']}"]


def test_what_the_workflow_makes_can_be_made():
    """Every `make TARGET` of the workflow is a target of the Makefile, and the tests run on each Python
    that is promised.
    """
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    jobs = workflow["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    wanted = set(re.findall(r"\bmake (\w+)", "\n".join(commands))) | set(
        jobs["deep"]["strategy"]["matrix"]["work"]
    )
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"test", "wheel", "fuzz", "coverage", "mutants"} <= wanted <= targets
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert PROJECT["project"]["requires-python"] == ">=3.11"


def test_the_citation_names_this_version():
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == reckoner.__version__
