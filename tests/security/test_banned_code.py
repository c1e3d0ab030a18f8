"""Nothing in the project unpickles, evaluates text as code, starts a shell or runs what a model folder brings
along."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path for room in ("src", "scripts", "benchmarks", "learn") for path in (ROOT / room).rglob("*.py")
)

MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "codeop",
    "imp",
    "pty",
    "telnetlib",
}
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "breakpoint",
    "os.system",
    "os.popen",
    "commands.getoutput",
    "subprocess.getoutput",
}
CALLS |= {
    "subprocess.getstatusoutput",
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "torch.package.PackageImporter",
    "torch.ops.load_library",
}
CALLS |= {
    "yaml.load",
    "yaml.load_all",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.unsafe_load_all",
    "yaml.full_load_all",
    "runpy.run_path",
    "runpy.run_module",
}
CALLS |= {
    "numpy.load",
    "np.load",
    "pandas.read_pickle",
    "pd.read_pickle",
    "jinja2.Template",
    "importlib.import_module",
    "builtins.eval",
    "builtins.exec",
}
CALLS |= {
    "tempfile.mktemp",
    "shutil.unpack_archive",
    "tarfile.open",
    "zipfile.ZipFile",
    "webbrowser.open",
    "huggingface_hub.send_telemetry",
    "huggingface_hub.utils.send_telemetry",
}
PREFIXES = ("os.exec", "os.spawn", "os.posix_spawn")
SWITCHES = {
    "trust_remote_code": {False},
    "allow_pickle": {False},
    "shell": {False},
    "weights_only": set(),
    "use_safetensors": {True},
    "autoescape": {True},
}


def banned(tree: ast.AST) -> list[str]:
    """What in a module is not allowed, by name."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {
                alias.asname or alias.name.split(".")[0]: alias.name
                if alias.asname
                else alias.name.split(".")[0]
                for alias in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found = [name for name in names.values() if name.split(".")[0] in MODULES or name in CALLS]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            first, dot, rest = ast.unparse(node).partition(".")
            full = f"{names.get(first, first)}{dot}{rest}"
            found += [full] if full in CALLS or full.startswith(PREFIXES) else []
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                allowed = SWITCHES.get(keyword.arg or "")
                if allowed is not None and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value in allowed
                ):
                    found.append(f"{keyword.arg}={ast.unparse(keyword.value)}")
    return found


PLANTED = [
    "import pickle",
    "from pickle import loads",
    "import dill as d",
    "import joblib",
    "import shelve",
    "import marshal",
    "import cloudpickle",
    "eval('1')",
    "exec('1')",
    "f = eval",
    "map(eval, x)",
    "compile('1', '', 'eval')",
    "__import__('os')",
    "import builtins as b\nb.eval('1')",
    "import os\nos.system('x')",
    "from os import system",
    "from os import system as quiet\nquiet('x')",
    "import os as o\no.popen('x')",
    "import os\nos.execvp('x', [])",
    "import os\nos.spawnl(0, 'x')",
    "import subprocess\nsubprocess.run('x', shell=True)",
    "import subprocess as s\ns.Popen('x', shell=flag)",
    "import subprocess\nsubprocess.getoutput('x')",
    "import torch\ntorch.load('x')",
    "from torch import load\nload('x')",
    "import torch as t\nt.load('x', weights_only=True)",
    "import torch\ntorch.save(x, 'y')",
    "import torch\ntorch.hub.load('a', 'b')",
    "import numpy as np\nnp.load('x', allow_pickle=True)",
    "import numpy\nnumpy.load('x')",
    "import yaml\nyaml.load(x, yaml.Loader)",
    "from yaml import load",
    "import yaml\nyaml.full_load(x)",
    "import yaml as y\ny.unsafe_load(x)",
    "M.from_pretrained('x', trust_remote_code=True)",
    "M.from_pretrained('x', trust_remote_code=flag)",
    "M.from_pretrained('x', use_safetensors=False)",
    "import runpy\nrunpy.run_path('x')",
    "import importlib\nimportlib.import_module(name)",
    "from importlib import import_module",
    "import jinja2\njinja2.Template(x)",
    "import pandas as pd\npd.read_pickle('x')",
    "import tarfile\ntarfile.open('x')",
    "import tempfile\ntempfile.mktemp()",
    "from huggingface_hub.utils import send_telemetry\nsend_telemetry('x')",
]
HARMLESS = [
    "model.eval()",
    "re.compile('x')",
    "import subprocess\nsubprocess.run(['git'], check=False)",
    "import yaml\nyaml.safe_load(x)",
    "loader.load()",
    "M.from_pretrained('x', use_safetensors=True)",
    "from safetensors.torch import load_file",
    "import json\njson.load(x)",
    "import re\nre.compile('x')",
    "torch.compile(f)",
]


@pytest.mark.parametrize("code", PLANTED)
def test_every_planted_call_is_found(code):
    assert banned(ast.parse(code))


@pytest.mark.parametrize("code", HARMLESS)
def test_names_that_only_look_like_one_are_left_alone(code):
    assert banned(ast.parse(code)) == []


LEGITIMATE = {
    "src/reckoner/analysis/page.py": ["autoescape=autoescape"],
    "src/reckoner/analysis/report.py": ["autoescape=False"],  # Markdown has its own filters: test_inert.py
    "src/reckoner/analysis/card.py": ["autoescape=False"],  # Markdown too, by the same filters
    # Members are read to their promised size and sha256, into a folder that no name leaves: test_capsule.py
    "src/reckoner/runs/capsule.py": ["zipfile.ZipFile"],
    "src/reckoner/tasks/reward_plugin.py": ["importlib.import_module"],  # the name that was typed
    "src/reckoner/tracking.py": ["importlib.import_module"],  # a tracker's errors, by names in that file
    "src/reckoner/algorithms/__init__.py": [
        "importlib.import_module"
    ],  # our own modules, by names in that file
    "benchmarks/base_model.py": ["importlib.import_module"],  # our own modules, by names in that file
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_project_holds_none(path):
    found = [
        name
        for name in banned(ast.parse(path.read_text(encoding="utf-8")))
        if name not in LEGITIMATE.get(str(path.relative_to(ROOT)), ())
    ]
    assert found == []
