"""The card of a run and a push to a stand-in of the Hub, through the real command line."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from reckoner.cli import main
from reckoner.models.sources import SMOLLM2_HUB
from reckoner.runs.integrity import MANIFEST, manifest, run_files
from reckoner.runs.records import write_json


@pytest.fixture
def run(study_writer, tmp_path) -> Path:
    """A finished run with a model of one small file."""
    folder = study_writer(tmp_path / "nano", arms=("full-main",)) / "full-main"
    (folder / "model").mkdir()
    (folder / "model" / "model.safetensors").write_bytes(b"weights")
    (folder / "model" / "config.json").write_text("{}")
    return folder


@pytest.fixture(scope="session")
def study_writer():
    import importlib.util

    path = Path(__file__).parents[1] / "analysis" / "conftest.py"
    spec = importlib.util.spec_from_file_location("studies", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.write_study


def test_a_card_says_every_number_with_its_interval_and_cost(run, capsys):
    with open(run / "metrics.jsonl", "a") as file:
        file.writelines(f'{{"step": 99, "dev_token_accuracy": {share}}}\n' for share in (0.5, 0.75))
    write_json(run / MANIFEST, manifest(run, run_files(run)))
    assert main(["card", str(run), "--price", "0.36", "--watts", "90"]) == 0
    text = capsys.readouterr().out
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "mit" and "base_model" not in head
    test = head["model-index"][0]["results"][1]
    assert test["metrics"][0]["value"] == 56.67 and "n = 60" in test["metrics"][0]["name"]
    assert test["metrics"][0]["args"] | {"prompt_sha256": ""} == {
        "n": 60,
        "interval": [44.1, 68.43],
        "prompt": "0shot",
        "prompt_sha256": "",
        "decoding": "greedy",
        "max_new_tokens": 96,
        "grader": "reckoner-2",
        "seed": 0,
        "weights_sha256": {"model/model.safetensors": hashlib.sha256(b"weights").hexdigest()},
    }
    assert "| test | 60 | 56.7 % (44.1-68.4) | 58.3 % (45.7-69.9) |" in text
    # 20 seconds are 1/180 of an hour: 0.36 / 180 and 90 W / 180 / 1000
    assert "- 0.002 at a price of 0.36 an hour" in text and "- 0.0005 kWh at a power of 90 W" in text
    assert "a drop of 2.9000. A loss is no accuracy. Token accuracy on dev went from 50.0 % to 75.0 %" in text
    # dev went from 15 to 20 of 40
    assert "accuracy changed by +12.5 points of 40 dev problems (-8.9 to +32.4), which chance" in text
    assert "### buying: 9 of 20 wrong, 45.0 %" in text and text.count("The right answer is") == 6


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ([0, 38], "cannot be told: that takes 3 dev evaluations, and 2 were logged"),
        ([0], "cannot be told: that takes 3 dev evaluations, and 1 was logged"),
        ([0, 10, 30], "From step 10 to step 20, accuracy still rose by +50.0 points of 40 dev problems"),
        ([0, 30, 10], "From step 10 to step 20, accuracy fell by -50.0 points of 40 dev problems"),
        ([0, 30, 30], "which chance explains"),
    ],
)
def test_a_card_says_whether_to_train_longer_from_three_dev_evaluations_only(run, capsys, curve, says):
    lines = [{"step": 10 * at, "dev_strict": k, "dev_n": 40} for at, k in enumerate(curve)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(run / MANIFEST, manifest(run, run_files(run)))
    assert main(["card", str(run)]) == 0
    text = capsys.readouterr().out
    assert says in text and ("probably help" in text) == (curve == [0, 10, 30])


def test_a_cards_examples_are_wrong_answers_of_their_own_category(run, capsys):
    assert main(["card", str(run)]) == 0
    weakest = capsys.readouterr().out.partition("## Where it is weakest")[2]
    problems = {
        p["question"]: p for p in map(json.loads, (run / "problems" / "test.jsonl").read_text().splitlines())
    }
    seen = []
    for part in weakest.split("\n### ")[1:]:
        shown = [question for question in problems if question in part]
        assert {problems[question]["category"] for question in shown} == {part.partition(":")[0]}
        assert len(shown) == 2
        seen += shown
    assert len(set(seen)) == len(seen) == 6


def test_a_card_of_an_unfinished_run_is_one_line(run, capsys):
    (run / "summary.json").unlink()
    assert main(["card", str(run)]) == 2
    assert (
        "has not finished. Give the command that began it again, and then this one" in capsys.readouterr().err
    )


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's API as a push of small files uses; remembers what it was sent."""

    sent: dict[str, bytes] = {}

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") or "refuse" in body.decode():
            self.send_response(403)
            self.end_headers()
            return
        self.sent[self.path] = body
        if self.path.endswith("/preupload/main"):
            kept = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": one["path"], **kept} for one in json.loads(body)["files"]]
            answer = {"files": files}
        else:
            host = f"http://{self.headers['Host']}"
            answer = {
                "url": f"{host}/me/x",
                "commitUrl": f"{host}/me/x/commit/{'0' * 40}",
                "commitOid": "0" * 40,
            }
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    import huggingface_hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address, real = f"http://127.0.0.1:{server.server_port}", huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: real(endpoint=address, token="hf_" + "x" * 8))
    Hub.sent.clear()
    yield Hub.sent
    server.shutdown()
    server.server_close()


def test_a_push_shows_first_and_sends_then(run, hub, capsys):
    assert main(["push", str(run), "me/x"]) == 0
    shown = capsys.readouterr().out
    assert "model.safetensors" in shown and "licence of the base: mit" in shown
    assert shown.endswith("Nothing was sent. Give --yes to send it.\n") and not hub
    assert main(["push", str(run), "me/x", "--yes"]) == 0
    assert json.loads(hub["/api/repos/create"])["visibility"] == "private"
    lines = [json.loads(line) for line in hub["/api/models/me/x/commit/main"].splitlines()]
    names = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert names == {"model.safetensors", "config.json", "README.md"}


@pytest.mark.parametrize("repo", ["bad repo name", "x", "a/b/c", "me/x--y", "me/x.git", "-me/x"])
def test_a_name_that_no_repository_can_have_is_refused_before_anything_is_shown(run, repo, capsys):
    assert main(["push", str(run), "--", repo]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.endswith(
        "cannot be a repository of the Hub. Give OWNER/NAME, as me/my-model\n"
    )


def test_a_run_without_a_model_is_no_push(study_writer, tmp_path, capsys):
    prompted = study_writer(tmp_path / "nano", arms=("1shot",)) / "1shot"
    assert main(["push", str(prompted), "me/x"]) == 2
    assert "Name a finished run that trained" in capsys.readouterr().err


def test_a_refused_push_is_one_line_and_can_be_repeated(run, hub, capsys):
    assert main(["push", str(run), "me/refuse", "--yes"]) == 75
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "Check the name, the network and HF_TOKEN" in err


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("model/config.json", '{"a": "hf_' + "a" * 24 + '"}', "holds what looks like a secret"),
        ("README.md", "---\nlicense: cc-by-nc-nd-4.0\n---\n", "forbids passing on a changed model"),
    ],
)
def test_what_may_not_be_passed_on_is_refused(run, file, text, said, capsys):
    (run / file).write_text(text)
    assert main(["push", str(run), "me/x"]) == 2
    assert said in capsys.readouterr().err


def begins_with(run: Path, model: str) -> None:
    (run / "config.yaml").write_text(f"model: {{model_name_or_path: {model}}}\n")


def head_of(run: Path, capsys) -> tuple[dict, str]:
    """The metadata of a card and the text below it."""
    assert main(["card", str(run)]) == 0
    _, metadata, text = capsys.readouterr().out.split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_the_base_of_a_card_is_what_the_first_run_began_with(run, study_writer, tmp_path, capsys):
    """GRPO began with a fine-tuned run, and that with the model of a short name."""
    begins_with(run, "smollm2-135m")
    rewarded = study_writer(tmp_path / "second", arms=("grpo",)) / "grpo"
    begins_with(rewarded, run)
    for one in (run, rewarded):
        metadata, text = head_of(one, capsys)
        assert metadata["base_model"] == SMOLLM2_HUB and metadata["license"] == "apache-2.0"
        assert f"{SMOLLM2_HUB}, trained with reckoner" in text and str(tmp_path) not in text


def test_a_base_that_is_on_no_hub_is_named_without_its_path(run, tmp_path, capsys):
    (tmp_path / "my-model").mkdir()
    begins_with(run, tmp_path / "my-model")
    metadata, text = head_of(run, capsys)
    assert "base_model" not in metadata and "license" not in metadata
    assert "my-model, trained with reckoner" in text and str(tmp_path) not in text


@pytest.mark.parametrize("base", ["local folder", "someone/tiny"])
def test_an_adapter_is_sent_only_over_a_model_that_others_can_load(run, tmp_path, base, capsys):
    name = str(tmp_path) if base == "local folder" else base
    (run / "model" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": name}))
    begins_with(run, name)
    code = main(["push", str(run), "me/x", "--licence", "mit"])
    said = capsys.readouterr()
    if base == "local folder":
        assert code == 2 and "Merge it first: reckon merge" in said.err and name in said.err
    else:
        assert code == 0 and "adapter_config.json" in said.out


def test_an_adapter_over_an_adapter_is_said_to_be_one(run, tmp_path, capsys):
    """Plain peft loads no such pair: the card says so, and a push is refused before anything is read."""
    begins_with(run, "someone/tiny")
    assert "plain peft" not in head_of(run, capsys)[1]
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/tiny"}')
    named = f"{inner} (itself an adapter)"
    (run / "model" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": named}))
    (run / "model" / "base.json").write_text(json.dumps({"name": str(inner)}))
    text = head_of(run, capsys)[1]
    assert "trained over another adapter, and plain peft loads no such pair; `reckon merge` makes" in text
    assert str(tmp_path) not in text
    (inner / "adapter_config.json").rename(inner / "config.json")
    assert "plain peft" not in head_of(run, capsys)[1]
    assert main(["push", str(run), "me/x", "--licence", "mit"]) == 2
    said = capsys.readouterr().err
    assert f"its adapter needs {named}, which nobody else has. Merge it first: reckon merge" in said


def test_without_a_network_there_is_a_card_and_a_push_is_one_line(run):
    begins_with(run, "someone/tiny")

    def reckon(*words: str) -> tuple[int, str, str]:
        nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
        command = [sys.executable, "-m", "reckoner", *words]
        done = subprocess.run(
            command, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, out, err = reckon("card", str(run))
    assert (code, err) == (0, "") and "base_model: someone/tiny" in out and "license" not in out
    code, _, err = reckon("push", str(run), "me/x")
    assert code == 2 and err.count("\n") == 1 and "does not tell its licence" in err
    code, _, err = reckon("push", str(run), "me/x", "--licence", "mit", "--yes")
    assert code == 75 and err.count("\n") == 1 and "Check the name, the network and HF_TOKEN" in err


def test_an_unknown_licence_is_asked_for(run, tmp_path, capsys):
    (run / "config.yaml").write_text(f"model: {{model_name_or_path: {tmp_path}}}\n")
    assert main(["push", str(run), "me/x"]) == 2
    assert "does not tell its licence. Look it up and give --licence NAME" in capsys.readouterr().err
    assert main(["push", str(run), "me/x", "--licence", "apache-2.0"]) == 0
