"""The shape of the package: who imports whom, how long things are, what may never be called."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "reckoner"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

TORCH = {"torch", "transformers", "peft", "safetensors", "tokenizers", "accelerate", "bitsandbytes"}
LIGHT = TORCH | {"omegaconf", "numpy"}
SPINE = {"errors", "machine", "ranks"}
RECORDS = SPINE | {"runs.documents", "runs.records", "runs.safe_paths", "runs.integrity"}
SETTINGS = RECORDS | {"config", "presets"}
MODELS = SETTINGS | {"models"}
ENGINE = MODELS | {"engine"}
ASKING = ENGINE | {"runs", "tasks", "nano", "evaluation"}
TRAINING = ASKING | {"training"}
ALGORITHMS = TRAINING | {"algorithms"}
LAYERS = {
    # room or module: (what of ours it may import, third-party packages it may not import); the first that
    # fits counts
    "errors": (set(), LIGHT),
    "machine": ({"errors"}, LIGHT),
    "ranks": ({"errors"}, LIGHT - {"torch"}),
    "console": (SPINE, LIGHT),
    "runs.documents": (SPINE, LIGHT),
    "runs.records": (SPINE | {"runs.documents", "runs.safe_paths"}, LIGHT),
    "runs.safe_paths": (SPINE, LIGHT),
    "runs.integrity": (RECORDS, LIGHT),
    "runs.checkpoints": (SETTINGS | {"runs"}, {"transformers", "peft"}),
    "runs": (SETTINGS | {"runs"}, TORCH | {"numpy"}),
    "config": (SETTINGS | {"algorithms.ALGORITHMS"}, TORCH | {"numpy"}),
    "tasks": (SETTINGS | {"tasks", "nano"}, TORCH | {"omegaconf"}),
    "nano": (SETTINGS | {"nano", "tasks.arithmetic"}, TORCH | {"omegaconf"}),
    "analysis": (RECORDS | {"analysis", "tasks", "console"}, TORCH | {"omegaconf"}),
    "models": (MODELS, {"datasets"}),
    "engine": (ENGINE, {"datasets", "omegaconf"}),
    "evaluation": (ASKING, {"omegaconf"}),
    "training": (TRAINING, {"omegaconf"}),
    "algorithms": (ALGORITHMS, {"omegaconf"}),
    "devices": (ALGORITHMS, {"omegaconf"}),
    "tracking": (SETTINGS | {"runs"}, TORCH),
    "study.runner": (ALGORITHMS | {"study", "plan"}, {"omegaconf"}),
    "study": (ALGORITHMS | {"study", "tracking"}, {"omegaconf"}),
    "sizes": (SETTINGS | {"tasks", "nano"}, TORCH | {"omegaconf"}),
    "plan": (ALGORITHMS | {"study", "devices", "sizes"}, {"omegaconf"}),
    "doctor": (ALGORITHMS | {"plan"}, {"omegaconf"}),
    "verify": (SETTINGS | {"runs", "tasks", "nano", "models.sources"}, TORCH),
}
"""A room of ARCHITECTURE's section 4 imports what stands above it, never what stands below."""

FREE = {"cli", "presets", "__init__", "__main__"}
"""The command line imports everything, inside its verbs."""


def layer_of(path: Path) -> str:
    """The most specific row of LAYERS for a file."""
    dotted = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    while dotted and dotted not in LAYERS and dotted not in FREE:
        dotted = dotted.rpartition(".")[0]
    return dotted


def imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            if node.module and node.module.startswith("reckoner"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def allowed(name: str, permitted: set[str]) -> bool:
    inner = name.removeprefix("reckoner.")
    if any(inner == p or inner.startswith(p + ".") for p in permitted):
        return True
    return any(p.startswith(inner + ".") for p in permitted)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_layers(path):
    layer = layer_of(path)
    assert layer, f"{path.name} stands in no layer: name its room in LAYERS"
    if layer in FREE:
        return
    ours, forbidden = LAYERS[layer]
    for name in imports(TREES[path]):
        if name in ("reckoner", "reckoner.__version__"):
            continue
        if name.startswith("reckoner."):
            assert allowed(name, ours), f"{layer} may not import {name}"
        else:
            assert name.split(".")[0] not in forbidden, f"{layer} may not import {name}"


def test_no_import_circle():
    """Imports at the top of a file, outside functions and TYPE_CHECKING, form no circle."""
    names = {
        ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
        for p in FILES
    }
    edges = {
        name: {
            target
            for node in TREES[path].body
            for target in imports(ast.Module([node], []))
            if target in names
        }
        for name, path in names.items()
        if "TYPE_CHECKING" not in name
    }
    for name, path in names.items():
        guarded = [node for node in TREES[path].body if isinstance(node, ast.If)]
        for node in guarded:
            edges[name] -= {target for target in imports(node) if target in names}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for target in sorted(edges[name] - {name}):
                visit(target, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


@pytest.mark.parametrize("room", ["models", "engine"])
def test_no_import_circle_inside_functions(room):
    """Within a room, imports inside functions and under TYPE_CHECKING form no circle either."""
    paths = {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
        for path in FILES
        if path.relative_to(PACKAGE).parts[0] == room
    }
    edges = {
        name: {target for target in imports(TREES[path]) if target in paths} for name, path in paths.items()
    }

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        for target in sorted(edges[name]):
            visit(target, (*trail, name))

    for name in edges:
        visit(name, ())


def test_only_the_backend_table_asks_for_an_implementation():
    """No module beside `engine/backend.py` looks whether Numba, oneDNN or Triton are there; each defines
    its own flag.
    """
    for path in (PACKAGE / "engine").rglob("*.py"):
        asked = {node.attr for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}
        assert path.name == "backend.py" or "AVAILABLE" not in asked, path.name


def test_operations_have_the_same_names_in_every_implementation():
    ops = {
        path.stem: {node.name for node in TREES[path].body if isinstance(node, ast.FunctionDef)}
        for path in (PACKAGE / "engine" / "ops").glob("*.py")
    }
    loops = ops["numba_ops"] | ops["numba_attention"]
    fast = loops | ops["onednn_ops"] | ops["triton_ops"]
    named = {"rms_norm", "gated_act", "rope", "attention", "linear"}
    assert named <= ops["dispatch"] and named <= fast
    shared = {"rms_norm", "rms_norm_backward", "gated_act", "gated_act_backward", "rope", "attention"}
    assert shared <= loops & ops["torch_ops"]
    assert {"gated_act", "gated_act_backward", "rope"} <= ops["triton_ops"]


def test_algorithms_never_import_one_another():
    for path in (PACKAGE / "algorithms").glob("*.py"):
        if path.stem != "__init__":
            own = [name for name in imports(TREES[path]) if name.startswith("reckoner.algorithms")]
            assert not own, path.name


def test_the_root_has_at_most_twelve_modules():
    assert len([path for path in FILES if path.parent == PACKAGE]) <= 12


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_sizes_and_annotations(path):
    assert path.read_text(encoding="utf-8").count("\n") <= 500
    assert path.stem not in {"utils", "common", "helpers", "misc"}
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= (120 if node.name.startswith("train") else 60), f"{node.name}: {length} lines"
            if not node.name.startswith("_"):
                assert node.returns is not None, f"{node.name} has no return annotation"
                bare = [
                    a.arg for a in node.args.args if a.annotation is None and a.arg not in {"self", "cls"}
                ]
                assert not bare, f"{node.name}: {bare} not annotated"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_fault_is_swallowed_unseen(path):
    """What may never be called stands in tests/security/test_banned_code.py."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None and ast.unparse(node.type) not in {"Exception", "BaseException"}


def test_files_that_the_code_cites_are_there():
    """A docstring or message that names a benchmark, a document or a test names one that this tree has."""
    for path in FILES:
        for cited in re.findall(
            r"\b(?:benchmarks|docs|tests|learn)/[\w/]+\.(?:py|md)\b", path.read_text("utf-8")
        ):
            assert (PACKAGE.parent.parent / cited).is_file(), f"{path.name} cites {cited}"


def test_one_reader_of_the_files_that_the_analysis_compares():
    """Whatever wrote them, completions, grades and problems are read by `readers` and `tools`, study folders
    by `study_records`.
    """
    reading = {"json_object", "raw_lines", "read_json", "read_json_lines", "read_records"}
    for path in (PACKAGE / "analysis").rglob("*.py"):
        if path.stem not in {"readers", "study_records", "tools"}:
            own = {
                name.rpartition(".")[2] for name in imports(TREES[path]) if name.startswith("reckoner.runs")
            }
            assert not own & reading, f"{path.name} reads files itself"


def test_one_loop_asks_a_policy():
    """Completions are drawn in `evaluation.sample`, or the process that it asks; `devices` times how fast."""
    asking = {
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        if "reckoner.engine.generate.generate" in set(imports(TREES[path]))
    }
    assert asking == {"evaluation/sample.py", "engine/serve.py", "devices.py"}


def test_one_table_and_one_writer_of_pages():
    """Everything in rows is an `analysis.tables.Table`, and only `analysis.page` renders templates of
    pages.
    """
    named = [
        path.relative_to(PACKAGE).as_posix()
        for path in FILES
        for node in TREES[path].body
        if (isinstance(node, ast.ClassDef) and node.name == "Table")
        or (isinstance(node, ast.Assign) and any(getattr(t, "id", "") == "Table" for t in node.targets))
    ]
    assert named == ["analysis/tables.py"]
    pages = [
        path.name for path in (PACKAGE / "analysis").glob("*.py") if "jinja2" in set(imports(TREES[path]))
    ]
    assert pages == ["page.py"]
