"""settings, ls, watch and the shell's completions, through the real command line."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reckoner.cli import main
from reckoner.config.describe import every_setting
from reckoner.config.load import setting_names
from reckoner.runs.integrity import MANIFEST, manifest
from reckoner.runs.records import write_json


@pytest.fixture
def runs(tmp_path) -> Path:
    """A finished run, a study of one finished and one waiting arm, and a run that has logged 8 steps."""
    for name, method in (("sft", "sft"), ("nano/full", "sft"), ("ppo", "")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text("")
        if method:
            test = dict.fromkeys(("flexible", "no_answer", "truncated", "multi_marker", "tokens", "reads"), 0)
            test |= {"split": "test", "strict": 3, "n": 4, "seconds": 1.0, "max_new_tokens": 9}
            test |= dict.fromkeys(
                ("prompt", "prompt_hash", "decoding", "problems", "predictions", "grades"), "x"
            )
            summary = {"status": "finished", "method": method, "evaluations": [test]}
            (tmp_path / name / "summary.json").write_text(json.dumps(summary))
            write_json(tmp_path / name / MANIFEST, manifest(tmp_path / name))
    (tmp_path / "nano" / "config.yaml").write_text("")
    arms = [
        {"name": n, "folder": n, "method": "sft", "state": s} for n, s in (("full", "done"), ("b", "waiting"))
    ]
    study = {"name": "nano", "preset": "nano", "seed": 0, "model": "nano", "arms": arms, "pairs": []}
    (tmp_path / "nano" / "study.json").write_text(json.dumps(study))
    lines = [{"step": step, "seconds": 2.0 * step, "reward": step / 8} for step in range(1, 9)]
    lines += [{"step": 8, "dev_strict": 10, "dev_n": 40}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "ppo" / "metrics.jsonl").write_text(text + '{"step": 9, "rew')
    return tmp_path


def test_ls_shows_state_and_score(runs, capsys):
    assert main(["ls", str(runs), "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert [*found] == ["nano", "nano/full", "ppo", "sft"]
    assert (found["nano"]["kind"], found["nano"]["state"]) == ("study of 2 arms", "stopped, 1 done")
    assert (found["sft"]["state"], found["sft"]["score"]) == ("finished", "test 75.0 %")
    assert (found["ppo"]["state"], found["ppo"]["score"]) == ("stopped", "dev 25.0 %")
    with open(runs / "ppo" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["ls", str(runs)]) == 0
    assert "running" in capsys.readouterr().out


def test_no_figure_of_a_changed_summary_is_shown(runs, capsys):
    path = runs / "sft" / "summary.json"
    path.write_text(path.read_text().replace('"strict": 3', '"strict": 4'))
    assert main(["ls", str(runs), "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert (found["sft"]["state"], found["sft"]["score"]) == ("changed, see reckon verify", "")
    assert found["nano/full"]["score"] == "test 75.0 %"
    assert main(["watch", str(runs / "sft")]) == 2
    assert f"{path}: has changed since the run finished" in capsys.readouterr().err


def test_ls_and_watch_of_nothing(tmp_path, capsys):
    assert main(["ls", str(tmp_path)]) == main(["ls", str(tmp_path / "no")]) == 2
    assert main(["watch", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 3


def test_watch_draws_the_whole_lines_of_a_run_that_goes_on(runs, capsys):
    assert main(["watch", str(runs / "ppo")]) == 0
    head, reward = capsys.readouterr().out.splitlines()  # one dev evaluation is no curve
    assert head == "ppo  stopped  step 8  0:16  dev 25.0 %"
    assert reward.split() == ["reward", "0.125", "▁▂▃▄▅▆▇█", "1"]
    assert main(["watch", str(runs / "nano")]) == 0
    assert capsys.readouterr().out.startswith("full  finished")


def test_watch_draws_dev_accuracy_in_per_cent_and_rounding_noise_as_zero(runs, capsys):
    lines = [{"step": 0, "dev_strict": 0, "dev_n": 200, "kl_reference": -6.125e-11},
             {"step": 9, "dev_strict": 112, "dev_n": 200, "kl_reference": 0.5}]  # fmt: skip
    (runs / "ppo" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["watch", str(runs / "ppo")]) == 0
    _, dev, kl = capsys.readouterr().out.splitlines()
    assert dev.split() == ["dev_strict", "0", "▁█", "56", "%"]
    assert kl.split() == ["kl_reference", "0", "▁█", "0.5"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"step": ', "not JSON"),
        ("[1]", "expected an object, found list"),
        ('{"step": 2, "dev_strict": 3}', "of dev_strict and dev_n, both stand in a line as numbers"),
        ('{"step": 2, "dev_strict": 3, "dev_n": "4"}', "of dev_strict and dev_n, both"),
        ('{"step": 2, "dev_strict": 3, "dev_n": 0}', "of dev_strict and dev_n, both"),
    ],
)
def test_a_damaged_line_of_metrics_is_named(runs, capsys, line, says):
    with open(runs / "ppo" / "metrics.jsonl", "w") as file:
        file.write(f"{line}\n")
    for words in (["watch", str(runs / "ppo")], ["ls", str(runs)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"ppo/metrics.jsonl: {says}" in error and error.count("\n") == 1


def test_watch_follows_no_link(runs, capsys):
    (runs / "ppo" / "metrics.jsonl").rename(runs / "elsewhere")
    (runs / "ppo" / "metrics.jsonl").symlink_to(runs / "elsewhere")
    assert main(["watch", str(runs / "ppo")]) == 2
    assert "leaves the folder" in capsys.readouterr().err


def test_values_that_are_no_numbers_are_not_drawn(runs, capsys):
    lines = ['{"step": "x", "loss": null, "reward": 1e308}', '{"reward": -1e308, "seconds": null}']
    lines += ['{"reward": 1e999, "loss": "x", "seconds": ' + "9" * 400 + "}"]
    (runs / "ppo" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert main(["watch", str(runs / "ppo")]) == 0
    head, reward = capsys.readouterr().out.splitlines()  # one dev evaluation is no curve
    assert head == "ppo  stopped  step 0  0:00" and reward.split() == ["reward", "1e+308", "█▁", "-1e+308"]


def test_watch_draws_each_seed_of_an_arm(runs, capsys):
    study = json.loads((runs / "nano" / "study.json").read_text())
    seeds = [{"seed": s, "folder": f"full/seed-{s}", "state": "done"} for s in (0, 1)]
    study["arms"][0]["runs"] = seeds
    (runs / "nano" / "study.json").write_text(json.dumps(study))
    for seed in seeds:
        shutil.copytree(runs / "ppo", runs / "nano" / seed["folder"])
    assert main(["watch", str(runs / "nano")]) == 0
    heads = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    assert heads == [f"full/seed-{s}  stopped  step 8  0:16  dev 25.0 %" for s in (0, 1)]


def test_settings_about_a_word_a_verb_and_nothing(capsys):
    assert main(["settings", "lora_r", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found == {
        "name": "peft.lora_r",
        "kind": "int",
        "default": "16",
        "allowed": "1 or more",
        "doc": "rank",
    }
    assert main(["sft", "--help-settings", "--json"]) == 0
    sections = {one["name"].partition(".")[0] for one in json.loads(capsys.readouterr().out)}
    assert sections == {"model", "peft", "data", "prompt", "train", "eval", "run"}
    assert main(["settings", "learning_rat"]) == 0
    assert main(["settings", "zzz"]) == 2
    assert "no setting is about zzz" in capsys.readouterr().err


def test_a_narrow_terminal_shows_what_a_setting_does(monkeypatch):
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["settings", "prompt"]) == 0
    shown = out.getvalue().splitlines()
    assert "what it does" in shown[0] and "default" in shown[0]
    assert any(line.startswith("prompt.instruction") and "put before the question" in line for line in shown)
    assert max(map(len, shown[1:])) <= 80 and "for want of width: allowed." in shown[-1]


def test_every_setting_is_described():
    assert {one.name for one in every_setting() if ".NAME." not in one.name} == set(setting_names())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("reckon study --preset sm", ["smoke", "smollm2"]),
        ("reckon study --preset nano --arm pp", ["ppo"]),
        ("reckon sft peft.lora_a", ["peft.lora_alpha="]),
        ("reckon wat", ["watch"]),
    ],
)
def test_a_shell_completes_names(words, offered):
    asked = {"_RECKON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "reckoner"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == offered and done.stderr == ""
