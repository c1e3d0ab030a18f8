"""The command line as a user meets it: real processes, exit codes, one clear line, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reckoner.cli import main
from reckoner.cli.options import flag_hint, read_config
from reckoner.faults import InputError

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


def reckon(*arguments, cwd=None, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "reckoner", *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", cwd=cwd, input=stdin, env=ENVIRONMENT, timeout=120,
    )


def refused(*arguments, says, cwd=None):
    """The command ends with code 2 and one line that holds every text of `says`."""
    done = reckon(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stderr.startswith("reckon: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr
    assert done.stdout == ""


def test_no_arguments_print_the_help():
    done = reckon()
    assert done.returncode == 0 and "Usage: reckon" in done.stdout and done.stderr == ""


def test_version():
    assert reckon("--version").stdout == "reckoner 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["dat"], ["'dat'", "Did you mean 'data'?", "reckon --help"]),
        (["data"], ["Missing command", "reckon data --help"]),
        (["data", "stats", "--learning-rate", "1e-5"], ["--learning-rate", "train.learning_rate=1e-5"]),
        (["data", "stats", "--train.learning_rate=1e-5"], ["as train.learning_rate=1e-5"]),
        (["data", "stats", "--preset"], ["--preset", "requires an argument"]),
        (["data", "stats", "--nonsense"], ["--nonsense", "reckon data stats --help"]),
        (["data", "stats", "train.learning_rat=1"], ["train.learning_rat ", "did you mean train.learning_rate?"]),
        (["data", "stats", "oops"], ["oops", "section.key=value"]),
        (["data", "stats", "--preset", "nanoo"], ["nanoo is not a preset", "did you mean nano?"]),
        (["data", "stats", "--config", "missing.yaml"], ["missing.yaml", "no such file"]),
    ],
)
def test_usage_errors_are_one_line_and_code_2(arguments, says):
    refused(*arguments, says=says)


def test_every_fault_has_its_own_prefixed_line():
    done = reckon("data", "stats", "train.a=1", "train.b=2")
    assert done.returncode == 2
    assert [line.startswith("reckon: train.") for line in done.stderr.splitlines()] == [True, True]


def test_debug_adds_the_traceback_and_keeps_the_code():
    done = reckon("data", "stats", "oops", "--debug")
    assert done.returncode == 2 and "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("reckon: oops")


def test_control_codes_in_a_message_are_shown_not_sent():
    assert "\x1b" not in reckon("data", "stats", "\x1b[2J=1").stderr


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 75, "interrupted"),
        (OSError(28, "No space left on device", "runs/a/model"), 75, "runs/a/model: no space left"),
        (PermissionError(13, "Permission denied", "runs/a"), 2, "runs/a: Permission denied"),
        (OSError(30, "Read-only file system", "runs/a"), 2, "runs/a: Read-only file system"),
    ],
)
def test_endings_that_are_not_bugs(monkeypatch, capsys, error, code, says):
    def stop(*_):
        raise error

    monkeypatch.setattr("reckoner.cli.look.read_config", stop)
    assert main(["data", "stats"]) == code
    assert capsys.readouterr().err.startswith(f"reckon: {says}")


@pytest.mark.parametrize("error", [ZeroDivisionError(), FileNotFoundError(2, "No such file", "x"), KeyError("x")])
def test_a_bug_crashes_loudly(monkeypatch, error):
    def crash(*_):
        raise error

    monkeypatch.setattr("reckoner.cli.look.read_config", crash)
    with pytest.raises(type(error)):
        main(["data", "stats"])


def test_flag_hints_name_every_section_that_has_the_setting():
    assert flag_hint("--max-length", ["--max-length", "64"]).endswith("train.max_length=64")
    assert flag_hint("--seed", ["--seed=3"]).endswith("run.seed=3")
    assert flag_hint("--dtype", ["--dtype"]).endswith("model.dtype=VALUE")
    assert flag_hint("--nonsense", []) == ""


def test_the_nano_preset_is_the_start_only_where_no_model_is_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("run:\n  seed: 3\n")
    assert read_config("", None, None).preset == "nano"
    assert read_config("", None, ["model.model_name_or_path=gpt2"]).preset == ""
    assert read_config("", [file], None).preset == ""
    with pytest.raises(InputError):
        read_config("", [Path("missing.yaml")], None)


def test_start_up_imports_nothing_heavy():
    code = "import sys; from reckoner.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.split())
    assert "reckoner.cli" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "rich", "omegaconf", "yaml", "datasets", "matplotlib", "scipy"}
