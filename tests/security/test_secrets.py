"""Six secrets in the environment appear in nothing that any verb writes, and no verb opens a connection."""

from __future__ import annotations

import base64
import getpass
import json
import os
import platform
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest

from .conftest import REFUSED, TOKENS, VERBS


def test_every_verb_ran_without_network(session):
    assert session.code == 0, session.err.decode()[-2000:]
    codes = json.loads((session.folder / "codes.json").read_text())
    assert dict(zip(map(" ".join, VERBS), codes, strict=False)) == {" ".join(verb): 0 for verb in VERBS}, (
        session.err.decode()[-3000:]
    )
    assert codes[len(VERBS) :] == [2] * len(REFUSED)


def test_the_guard_sees_a_connection(tmp_path, session):
    """The test above could not fail silently: a name looked up under the same guard ends the process."""
    environment = {**os.environ, "PYTHONPATH": str(session.root / "guard")}
    done = subprocess.run(
        [sys.executable, "-c", "import socket; socket.getaddrinfo('localhost', 80)"],
        env=environment,
        capture_output=True,
    )
    assert done.returncode == 99 and b"NETWORK" in done.stderr


@pytest.mark.parametrize("name", TOKENS)
def test_no_secret_in_any_byte(session, name):
    value = TOKENS[name].encode()
    forms = [
        value,
        value[::-1],
        base64.b64encode(value).rstrip(b"="),
        urllib.parse.quote(value, safe="").encode(),
        value.hex().encode(),
        value[: len(value) // 2],
    ]
    own = {"verbs.json"}
    files = [path for path in session.folder.rglob("*") if path.is_file() and path.name not in own]
    assert len(files) > 60
    for label, content in [
        ("stdout", session.out),
        ("stderr", session.err),
        *((str(path), path.read_bytes()) for path in files),
    ]:
        for form in forms:
            assert form not in content, f"{name} in {label}"


def test_names_of_this_machine_are_not_in_what_is_pasted(session):
    report = json.loads((session.folder / "s" / "full" / "environment.json").read_text())
    shown = json.dumps(report)
    assert set(report) == {
        "python",
        "system",
        "processor",
        "cores",
        "allowed_cores",
        "memory_bytes",
        "versions",
        "commit",
        "code",
        "backend",
    }
    assert str(session.root) not in shown and platform.node() not in shown
    assert getpass.getuser() not in shown.replace("processor", "")


def test_the_doctor_is_fit_to_paste(reckon, monkeypatch):
    for name, value in TOKENS.items():
        monkeypatch.setenv(name, value)
    text, document = reckon("doctor"), reckon("doctor", "--json")
    assert text.code == document.code == 0 and text.err == document.err == ""
    found = json.loads(document.out)
    assert {
        "python",
        "system",
        "processor",
        "cores",
        "threads",
        "gpus",
        "embedded_model",
        "versions",
        "presets",
    } <= set(found)
    for shown in (text.out, document.out):
        assert (
            shown.replace("\n", "").isprintable()
            and str(Path.home()) not in shown
            and platform.node() not in shown
        )
        assert not any(value in shown for value in TOKENS.values())


def test_telemetry_is_off_before_any_library_could_send():
    code = "import reckoner; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_DISABLE_TELEMETRY"}
    assert (
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
        == "True\n"
    )
