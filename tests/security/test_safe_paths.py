"""Names and paths, wherever they come from, cannot lead out of a run folder: sixty attempts, by every
door."""

from __future__ import annotations

import json
import os
import socket

import pytest

from reckoner.errors import InputError, Stopped
from reckoner.runs.folder import Run
from reckoner.runs.integrity import check_finished, manifest
from reckoner.runs.safe_paths import (
    check_name,
    check_output,
    refuse_links,
    regular_file,
    replacing,
    resolve_within,
)

from .conftest import write_run, write_study

NAMES = {
    "empty": "",
    "dot": ".",
    "parent": "..",
    "up": "../x",
    "up twice": "../../x",
    "inner up": "a/../../x",
    "absolute": "/etc/passwd",
    "root": "/",
    "below": "a/b",
    "trailing slash": "a/",
    "double slash": "//server/share",
    "backslash": "a\\b",
    "backslash up": "..\\x",
    "unc": "\\\\server\\share",
    "drive": "C:",
    "drive path": "C:\\x",
    "drive relative": "C:x",
    "stream": "a:b",
    "device con": "CON",
    "device nul": "nul",
    "device com": "com1.txt",
    "device lpt": "LPT9",
    "device aux": "aux.yaml",
    "trailing dot": "a.",
    "dots": "...",
    "hidden": ".ssh",
    "option": "-rf",
    "home": "~",
    "home user": "~root",
    "variable": "$HOME",
    "command": "$(id)",
    "backticks": "`id`",
    "semicolon": "a;b",
    "pipe": "a|b",
    "glob": "*",
    "question": "a?",
    "quote": "a'b",
    "double quote": 'a"b',
    "space": "a b",
    "leading space": " a",
    "trailing space": "a ",
    "tab": "a\tb",
    "line feed": "a\nb",
    "carriage": "a\rb",
    "nul": "a\0b",
    "nul up": "..\0",
    "escape": "a\x1b[2Jb",
    "long": "x" * 65,
    "very long": "x" * 5000,
    "accent": "é",
    "full-width dots": "．．",
    "full-width slash": "a／b",
    "division slash": "a∕b",
    "two-dot leader": "‥",
    "look-alike a": "аrun",
    "bidi": "a\u202eb",
    "zero width": "a\u200bb",
    "combining": "a\u0301",
    "surrogate": "a\ud800",
    "emoji": "a😀",
    "percent": "%2e%2e%2fx",
    "digits of elsewhere": "١",
    "url": "file:///etc/passwd",
}
FINE = {
    "percent",
    "dots",
    "hidden",
    "option",
    "home",
    "home user",
    "variable",
    "command",
    "backticks",
    "semicolon",
    "pipe",
    "glob",
    "question",
    "quote",
    "double quote",
}
FINE |= {
    "space",
    "leading space",
    "trailing space",
    "trailing dot",
    "below",
    "device con",
    "device nul",
    "device com",
    "device lpt",
    "device aux",
    "long",
}
FINE |= {
    "accent",
    "full-width dots",
    "full-width slash",
    "division slash",
    "two-dot leader",
    "look-alike a",
    "combining",
    "emoji",
    "digits of elsewhere",
}
"""Odd as they are, these are plain names of files inside a folder."""


def test_there_are_sixty():
    assert len(NAMES) >= 60


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_no_folder_of_ours_has_such_a_name(name):
    with pytest.raises(InputError, match="is not a name for a run"):
        check_name(name)


@pytest.mark.parametrize(
    "name",
    [name for key, name in NAMES.items() if key not in FINE],
    ids=[key for key in NAMES if key not in FINE],
)
def test_no_path_in_a_file_leads_out(name, tmp_path):
    for part in (name, f"predictions/{name}", f"{name}/test.jsonl"):
        with pytest.raises(InputError, match="leaves the folder, or is no plain relative path"):
            resolve_within(tmp_path, part, tmp_path / "summary.json")


@pytest.mark.parametrize("name", [NAMES[key] for key in sorted(FINE)], ids=sorted(FINE))
def test_an_odd_name_stays_inside(name, tmp_path):
    path = resolve_within(tmp_path, name, tmp_path / "summary.json")
    assert tmp_path.resolve() in path.resolve().parents


DOORS = {
    "predictions of a summary": lambda folder, name: write_run(
        folder / "r", evaluation={"predictions": name}
    ),
    "grades of a summary": lambda folder, name: write_run(folder / "r", evaluation={"grades": name}),
    "problems of a summary": lambda folder, name: write_run(folder / "r", evaluation={"problems": name}),
}
ESCAPES = [
    "../secret.jsonl",
    "/etc/passwd",
    "a/../../secret.jsonl",
    "predictions/../../secret.jsonl",
    "..\\secret.jsonl",
    "C:\\x",
    "a\0b",
    "./x",
    "x" * 5000,
    "\u202ex",
    "",
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
def test_fields_that_name_files(refused, tmp_path, door, name):
    (tmp_path / "secret.jsonl").write_text('{"hush": 1}\n')
    door(tmp_path, name)
    assert "hush" not in refused("errors", "r", says="leaves the folder")


@pytest.mark.parametrize("name", ESCAPES)
def test_folders_that_a_study_names(refused, tmp_path, name):
    study = write_study(tmp_path / "s", ["x"])
    document = json.loads((study / "study.json").read_text())
    document["arms"][0]["folder"] = name
    (study / "study.json").write_text(json.dumps(document))
    refused("report", "s", says="leaves the folder")
    refused("verify", "s", says="leaves the folder")


@pytest.mark.parametrize(
    "name", [name for name in NAMES.values() if "\0" not in name and name and name.isprintable()]
)
def test_names_of_studies_and_arms(refused, name):
    document = json.dumps({"study": {"name": name, "arms": {"a": {"method": "sft"}}}})
    with open("c.yaml", "w", encoding="utf-8", errors="surrogatepass") as file:
        file.write(document)
    refused("study", "--config", "c.yaml", "--dry-run", says="is not a name for a run")
    with open("c.yaml", "w", encoding="utf-8") as file:
        json.dump({"study": {"arms": {name: {"method": "sft"}}}}, file)
    refused(
        "study",
        "--config",
        "c.yaml",
        "--dry-run",
        says="is not a name for a run" if len(name) < 1000 else "not YAML",
    )


@pytest.mark.parametrize("name", ["..", "/", "a/..", "runs/.ssh", "a/-x", "runs/a b", "runs/é"])
def test_output_folders(refused, name):
    refused("eval", "nano", f"run.output_dir='{name}'", says="is not a name for a run")


@pytest.mark.parametrize(
    "part",
    ["predictions", "metrics.jsonl", ".config.yaml.tmp", "checkpoints/step-000001", "model/config.json"],
)
@pytest.mark.parametrize("target", ["..", "/etc/passwd", "elsewhere"])
def test_nothing_is_written_through_a_link(tmp_path, tiny_settings, part, target):
    config = tiny_settings(tmp_path / "r")
    (tmp_path / "r" / part).parent.mkdir(parents=True)
    os.symlink(target, tmp_path / "r" / part)
    with pytest.raises(InputError, match="is a link to"):
        Run.open(config)
    with pytest.raises(InputError, match="is a link to"):
        Run.open(config, attach=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r"]


def test_the_lock_is_no_link(tmp_path, tiny_settings):
    (tmp_path / "r").mkdir()
    os.symlink(tmp_path / "target", tmp_path / "r" / ".lock")
    with pytest.raises(InputError, match="cannot be used as output folder"):
        Run.open(tiny_settings(tmp_path / "r"))
    assert not (tmp_path / "target").exists()


def test_a_report_is_not_written_through_a_link(refused, tmp_path):
    write_study(tmp_path / "s", ["x"])
    for name in ("report.html", "figures"):
        os.symlink(tmp_path / "target", tmp_path / "s" / name)
        refused("report", "s", says="is a link to")
        os.unlink(tmp_path / "s" / name)
    assert not (tmp_path / "target").exists()


def test_an_arm_that_is_a_link_is_not_followed(refused, tmp_path):
    study = write_study(tmp_path / "s", ["x"])
    (study / "one").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", study / "one")
    refused("report", "s", says="is a link to")


@pytest.mark.parametrize("verb", ["compare", "errors", "rollouts"])
@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "problems/test-0shot.jsonl", "extra"])
def test_nothing_is_read_through_a_link_in_a_run(refused, tmp_path, verb, name):
    run = write_run(tmp_path / "r")
    (tmp_path / "elsewhere").write_text("{}")
    (run / name).unlink(missing_ok=True)
    os.symlink(tmp_path / "elsewhere", run / name)
    refused(verb, "r", says="is a link to")


def test_weights_and_settings_of_a_run_are_no_links(refused, tmp_path):
    for name in ("model", "config.yaml"):
        run = tmp_path / name.partition(".")[0]
        (run / "model").mkdir(parents=True)
        (run / "model" / "w").write_text("")
        for file in ("config.yaml", "summary.json"):
            (run / file).write_text("")
        (run / "MANIFEST.json").write_text(json.dumps(manifest(run, ["config.yaml", "model/w"])))
        (run / name).rename(tmp_path / f"away-{name}")
        os.symlink(tmp_path / f"away-{name}", run / name)
        with pytest.raises(InputError, match="leaves the folder"):
            check_finished(run, "model", "config.yaml")
    refused("predict", "config", says="leaves the folder")


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half of the ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out.txt"]
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
        with pytest.raises(Stopped, match="cannot be written"), replacing(path):
            pass  # two at once would mix
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["out.txt"]


def test_an_output_that_the_user_linked_or_that_is_a_pipe(tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real" / "x", tmp_path / "short")
    with replacing(tmp_path / "short") as file:
        file.write(b"1")
    assert (tmp_path / "short").is_symlink() and (tmp_path / "real" / "x").read_text() == "1"
    with replacing(tmp_path / "/dev/null") as file:
        file.write(b"1")
    assert not os.path.isfile("/dev/null")


def test_nothing_planted_beside_an_output_is_written_through(tmp_path):
    (tmp_path / "victim").write_text("safe")
    os.symlink(tmp_path / "victim", tmp_path / ".out.tmp")
    with pytest.raises(Stopped, match="cannot be written"), replacing(tmp_path / "out"):
        pass
    assert (tmp_path / "victim").read_text() == "safe"


@pytest.mark.parametrize("name", ["no/where", "folder", "file/x"])
def test_an_output_that_cannot_be_is_refused_before_the_work(refused, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    write_run(tmp_path / "r")
    with pytest.raises(InputError, match="Name a file in a folder that is there"):
        check_output(tmp_path / name)
    (tmp_path / "q").write_text('{"question": "a"}\n')
    refused("data", "make", "--n", "1", "--output", name)
    refused("errors", "r", "--html", name)
    refused("predict", "nowhere", "--input", "q", "--output", name, says=name)


def test_a_folder_that_is_itself_behind_a_link_is_the_users_own_choice(tmp_path):
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    os.symlink(tmp_path / "disk", tmp_path / "short")
    refuse_links(tmp_path / "short" / "runs")
    os.symlink("/etc", tmp_path / "disk" / "runs" / "inside")
    with pytest.raises(InputError, match="inside"):
        refuse_links(tmp_path / "short" / "runs")


def test_only_regular_files_are_read(tmp_path, refused):
    """A FIFO without a writer would block for ever, and /dev/zero would never end."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path / "socket", "/dev/zero", "/dev/null"):
            with pytest.raises(InputError, match="is a pipe, device or socket, not a file"):
                regular_file(path)
            refused("sft", "--dry-run", "--config", str(path), says="not a file")
            refused("replay", str(path), says="not a file")
    (tmp_path / "file").write_bytes(b"bytes")
    os.symlink(tmp_path / "file", tmp_path / "link")
    with regular_file(tmp_path / "link") as file:
        assert file.read() == b"bytes"
    with pytest.raises(IsADirectoryError):
        regular_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        regular_file(tmp_path / "nowhere")
