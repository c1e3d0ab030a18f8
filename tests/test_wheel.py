"""The built wheel alone is a working reckoner: weights, presets and templates travel in it, and it needs no
network.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reckoner import nano

ROOT = Path(__file__).parent.parent

NO_NETWORK = """
import socket

def refuse(*arguments, **keywords):
    raise RuntimeError("network call")

socket.socket.connect = refuse
socket.getaddrinfo = refuse
"""


def build(out: Path) -> Path:
    """A wheel of the sources, from a copy: setuptools leaves a build folder, whose old files would get into
    the next wheel.
    """
    tree = out / "tree"
    shutil.copytree(
        ROOT / "src",
        tree / "src",
        ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        copy_function=shutil.copyfile,  # with times of their own
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tree / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(tree),
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(
        [*command, "--wheel-dir", str(out)], check=True, capture_output=True, timeout=300, env=environment
    )
    (wheel,) = out.glob("reckonlab-*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel) -> Path:
    """The wheel, unpacked into a folder that stands first on the path, with sockets refused."""
    out = wheel.parent
    assert wheel.stat().st_size < 12_000_000
    with zipfile.ZipFile(wheel) as packed:
        assert not [name for name in packed.namelist() if name.endswith((".bin", ".pt", ".pkl"))]
        packed.extractall(out / "site")
    (out / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    return out / "site"


def reckon(site: Path | str, folder: Path, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site), "HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-m", "reckoner", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_it_is_the_wheel_that_runs(site, tmp_path):
    probe = "import reckoner, sys; sys.stdout.write(reckoner.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(site))


def test_a_wheel_built_again_elsewhere_has_the_same_bytes(wheel, tmp_path):
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_embedded_problems_travel_in_it_as_data(site, tmp_path):
    made = reckon(site, tmp_path, "data", "make", "--n", "3", "--seed", "7")
    assert made.returncode == 0, made.stderr
    rows = [json.loads(line) for line in made.stdout.splitlines()]
    here = list(nano.stream(3, 7, "main"))
    assert [(row["question"], row["answer"]) for row in rows] == [(p.question, p.solution) for p in here]


NO_LAB = """
import sys
from importlib.abc import MetaPathFinder

from reckoner.errors import EXTRAS

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def test_without_any_extra_it_judges_and_names_the_extra_that_trains(site, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(NO_LAB)
    bare = f"{tmp_path}:{site}"
    for name, good in (("a", "7"), ("b", "8")):
        line = {"id": 1, "question": "3+4?", "solution": "3+4=7\n#### 7", "gold": "7"}
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line | {"completion": f"#### {good}"}))
    for words in (
        ("grade", "a.jsonl", "--grader", "all"),
        ("compare", "a.jsonl", "b.jsonl"),
        ("power", "100"),
        ("mistakes", "a.jsonl", "b.jsonl"),
        ("mistakes", "b.jsonl", "--html", "page.html"),
        ("data", "stats", "data.max_train_samples=99"),
    ):
        assert reckon(bare, tmp_path, *words).returncode == 0, words
    for verb, needed in (
        (("sft",), "sft needs torch"),
        (("study",), "study needs torch"),
        (("eval", "nano"), "eval needs torch"),
    ):
        refused = reckon(bare, tmp_path, *verb)
        assert (refused.returncode, refused.stderr) == (
            2,
            f"reckon: {needed}: pip install 'reckonlab[lab]'\n",
        )
    counts = reckon(bare, tmp_path, "compare", "--counts", "--barnard", "3/10", "9/10")
    assert counts.stderr == "reckon: compare needs scipy: pip install 'reckonlab[barnard]'\n"


@pytest.mark.slow
def test_a_study_from_the_wheel_in_an_empty_folder(site, tmp_path):
    done = reckon(
        site,
        tmp_path,
        "study",
        "--preset",
        "smoke",
        *("--arm", "prompt-1shot-instruction", "--arm", "lora-grpo", "study.jobs=1"),
        *("data.dev_size=4", "data.max_test_samples=2", "eval.dev_samples=1"),
        "eval.max_new_tokens=160",  # else it is sought
        *(f"study.arms.lora-grpo.set.rollout.{size}" for size in ("num_prompts=4", "max_steps=1")),
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "smoke"
    for name in (
        "report.html",
        "report.md",
        "table.csv",
        "study.json",
        "figures/accuracy.svg",
        "figures/accuracy.png",
    ):
        assert (folder / name).stat().st_size > 0
    assert "report:" in done.stdout and "\x1b" not in done.stdout + done.stderr
    assert "  train  " in done.stderr
