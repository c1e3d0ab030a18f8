"""The command line as a user meets it: real processes, exit codes, one clear line, no traceback."""

import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
import typer

from reckoner import cli, console
from reckoner.cli import INTERRUPTED, inspect, main
from reckoner.cli.options import AsJson, Settings, config_of, flag_hint, names_data, read_config
from reckoner.config import build_config, read_layer
from reckoner.errors import InputError
from reckoner.runs.integrity import MANIFEST, manifest
from reckoner.tasks import gsm8k

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


def reckon(*arguments, cwd=None, stdin=None):
    return subprocess.run(
        [sys.executable, "-m", "reckoner", *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        input=stdin,
        env=ENVIRONMENT,
        timeout=120,
    )


def refused(*arguments, says, cwd=None):
    """The command ends with code 2 and one line that holds every text of `says`."""
    done = reckon(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert (
        done.stderr.startswith("reckon: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    )
    for text in says:
        assert text in done.stderr
    assert done.stdout == ""


def test_no_arguments_say_what_one_can_do_in_groups():
    done = reckon()
    assert done.returncode == 0 and done.stderr == ""
    groups = [part.split()[0] for part in done.stdout.split("\n\n")[1:-1]]
    assert groups == ["Train", "Use", "Compare", "Show", "Question", "Look", "Find"]
    assert "\nstudy " in done.stdout and "errors" not in done.stdout


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
        (
            ["data", "stats", "train.learning_rat=1"],
            ["train.learning_rat ", "did you mean train.learning_rate?"],
        ),
        (["data", "stats", "oops"], ["oops", "section.key=value"]),
        (["data", "stats", "--preset", "nanoo"], ["nanoo is not a preset", "did you mean nano?"]),
        (["data", "stats", "--config", "missing.yaml"], ["missing.yaml: cannot be read", "--config"]),
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
    assert (
        done.returncode == 2
        and "Traceback" in done.stderr
        and done.stderr.splitlines()[-1].startswith("reckon: oops")
    )


def test_control_codes_in_a_message_are_shown_not_sent():
    assert "\x1b" not in reckon("data", "stats", "\x1b[2J=1").stderr


def torch_oom(text: str) -> RuntimeError:
    return type("OutOfMemoryError", (RuntimeError,), {})(text)  # torch.OutOfMemoryError, without torch


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (KeyboardInterrupt(), 75, "interrupted"),
        (OSError(28, "No space left on device", "runs/a/model"), 75, "runs/a/model: no space left"),
        (PermissionError(13, "Permission denied", "runs/a"), 2, "runs/a: Permission denied"),
        (OSError(30, "Read-only file system", "runs/a"), 2, "runs/a: Read-only file system"),
        (OSError(12, "Cannot allocate memory"), 75, "out of memory. Lower train.per_device_train_batch_size"),
        (MemoryError(), 75, "out of memory. Lower"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            75,
            "out of memory.",
        ),
        (torch_oom("CUDA out of memory. Tried to allocate 20.00 GiB"), 75, "out of memory. Lower"),
        (RuntimeError("can't start new thread"), 75, "out of memory. Lower"),
    ],
)
def test_endings_that_are_not_bugs(monkeypatch, capsys, error, code, says):
    def stop(*_):
        raise error

    monkeypatch.setattr("reckoner.cli.data.read_config", stop)
    assert main(["data", "stats"]) == code
    assert capsys.readouterr().err.startswith(f"reckon: {says}")


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError(), FileNotFoundError(2, "No such file", "x"), KeyError("x"), RuntimeError("x")],
)
def test_a_bug_crashes_loudly(monkeypatch, error):
    def crash(*_):
        raise error

    monkeypatch.setattr("reckoner.cli.data.read_config", crash)
    with pytest.raises(type(error)):
        main(["data", "stats"])


def test_a_verb_is_one_function(monkeypatch, capsys):
    """It is parsed, its settings are read, it prints and it fails as every other verb does."""
    monkeypatch.setattr(inspect.verbs, "registered_commands", [*inspect.verbs.registered_commands])

    @inspect.verbs.command()
    def seed(settings: Settings = None, as_json: AsJson = False) -> None:
        """The seed of a run."""
        value = read_config("", None, settings).run.seed
        console.show({"seed": value}, as_json, [(["setting", "value"], [["run.seed", value]])])

    assert main(["seed", "run.seed=7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"seed": 7}
    assert main(["seed", "run.seed=7"]) == 0
    assert capsys.readouterr().out.split() == ["setting", "value", "run.seed", "7"]
    assert main(["seed", "run.seeed=7"]) == 2 and "did you mean run.seed" in capsys.readouterr().err
    assert main(["--help"]) == 0 and "The seed of a run." in capsys.readouterr().out


def test_errors_is_another_name_for_mistakes(tmp_path, capsys):
    line = {"id": "a", "question": "1+1?", "solution": "#### 2", "gold": "2", "completion": "#### 3"}
    (tmp_path / "c.jsonl").write_text(json.dumps(line) + "\n")
    (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
    printed = []
    for verb in ("mistakes", "errors"):
        assert main([verb, str(tmp_path / "c.jsonl"), "--gold", str(tmp_path / "p.jsonl")]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "gold 2; the model wrote:" in printed[0]
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert "\n  mistakes " in listed and "\n  errors " not in listed


def test_flag_hints_name_every_section_that_has_the_setting():
    assert flag_hint("--max-length", ["--max-length", "64"]).endswith("train.max_length=64")
    assert flag_hint("--seed", ["--seed=3"]).endswith("run.seed=3")
    assert flag_hint("--dtype", ["--dtype"]).endswith("model.dtype=VALUE")
    assert flag_hint("--epochs", ["--epochs", "3"]).endswith("train.num_train_epochs=3")
    assert flag_hint("--nonsense", []) == flag_hint("--lr", []) == ""


def test_the_nano_preset_is_the_start_only_for_the_embedded_model_and_its_runs(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("run:\n  seed: 3\n")
    assert read_config("", None, None).preset == "nano"
    assert read_config("", None, ["model.model_name_or_path=nano"]).preset == "nano"
    assert read_config("", None, ["model.model_name_or_path=gpt2"]).preset == "general"
    assert read_config("", None, None, "smollm2-135m").preset == "smollm2"
    assert (
        read_config("", None, None, "gpt2").preset == read_config("", [], [], "./folder").preset == "general"
    )
    for name, start in (("a", "nano"), ("b", str(tmp_path / "a")), ("c", "gpt2"), ("d", str(tmp_path / "d"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"model:\n  model_name_or_path: {start}\n")
    found = [read_config("", None, None, str(tmp_path / name)).preset for name in "abcd"]
    assert found == ["nano", "nano", "general", "general"]
    assert read_config("", [file], None).preset == ""
    with pytest.raises(InputError):
        read_config("", [Path("missing.yaml")], None)


@pytest.mark.parametrize(
    ("verb", "settings", "rate", "schedule"),
    [
        ("sft", [], 1e-5, "cosine_with_min_lr"),
        ("sft", ["peft.method=lora"], 1e-4, "cosine_with_min_lr"),
        ("ppo", [], 1e-6, "constant"),
        ("grpo", [], 1e-6, "constant"),
        ("grpo", ["peft.method=lora"], 1e-5, "constant"),
        # no arm of their own in the preset: those of the method that they are like
        ("ppo", ["peft.method=lora"], 1e-5, "constant"),
        ("dpo", [], 1e-6, "constant"),
        ("distill", ["peft.method=lora"], 1e-5, "constant"),
        ("rejection", ["peft.method=lora"], 1e-4, "cosine_with_min_lr"),
    ],
)
def test_another_model_gets_no_rate_of_the_embedded_one(capsys, verb, settings, rate, schedule):
    for named in (["--init", "org/model"], ["model.model_name_or_path=org/model"]):
        assert main([verb, *named, *settings, "--dry-run"]) == 0
        config = build_config([read_layer(capsys.readouterr().out, "printed")])
        assert (config.preset, config.model.model_name_or_path) == ("general", "org/model")
        assert (config.train.learning_rate, config.train.lr_scheduler_type) == (rate, schedule)
        assert (config.prompt.chat_template, config.model.dtype, config.rollout.max_steps) == (
            "auto",
            "auto",
            100,
        )


def test_a_setting_where_the_model_belongs(capsys, tiny_model):
    assert main(["eval", "eval.split=test", "nano"]) == 2
    assert "eval.split=test: the model comes first, then settings" in capsys.readouterr().err
    for words in (["eval", "nano"], ["chat", "nano"], ["doctor", "nano"], ["sft", "--init", "nano"]):
        assert main([*words, f"model.model_name_or_path={tiny_model}"]) == 2
        assert "named twice, once by model.model_name_or_path. Leave that" in capsys.readouterr().err
    assert main(["eval", f"model.model_name_or_path={tiny_model}x"]) == 2
    assert f"{tiny_model}x" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "model.model-name-or-path={}",
        "--model.model-name-or-path={}",
        " model.model_name_or_path ={}",
        "model={{model_name_or_path: {}}}",
    ],
)
def test_a_setting_is_the_same_however_its_name_is_written(capsys, tiny_model, name):
    other, model = name.format("org/model"), name.format(tiny_model)
    assert main(["sft", "--dry-run", "--", other]) == 0
    config = build_config([read_layer(capsys.readouterr().out, "printed")])
    assert (config.preset, config.model.model_name_or_path) == ("general", "org/model")
    assert main(["eval", "--", "nano", model]) == 2
    assert "named twice, once by model.model_name_or_path. Leave that" in capsys.readouterr().err
    assert names_data(None, ["data.local-files-only=false"]) and names_data(None, ["data={suite: svamp}"])
    assert not names_data(None, ["data.dev-size=4"])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("eval: {batch_size: 4}\n", False),
        ("data: {dev_size: 4}\n", False),
        ("", False),
        ("data: {hub_name: my/set}\n", True),
        ("data: {suite: svamp}\n", True),
    ],
)
def test_a_file_of_settings_lets_the_set_of_a_foreign_run_be_fetched_only_where_it_names_data(
    tmp_path, text, named
):
    (tmp_path / "my.yaml").write_text(text)
    assert names_data([tmp_path / "my.yaml"], None) is named
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("data: {source: hub, hub_name: their/set}\n")
    (run / "summary.json").write_text('{"status": "finished"}')
    (run / MANIFEST).write_text(json.dumps(manifest(run)))
    config = config_of(str(run), [], "", [tmp_path / "my.yaml"])
    assert config.data.local_files_only is not named


def test_a_prompt_that_is_typed_as_a_mapping_goes_over_that_of_a_run(tmp_path):
    saved = build_config([({"prompt": {"instruction": "Think."}}, {})])
    (tmp_path / "config.yaml").write_text(saved.to_yaml())
    (tmp_path / MANIFEST).write_text(json.dumps(manifest(tmp_path)))
    (tmp_path / "summary.json").write_text("{}")
    asked = config_of(str(tmp_path), ["prompt={chat_template: off}"], "", None)
    assert (asked.prompt.instruction, asked.prompt.chat_template) == ("Think.", "off")
    named = config_of("model.model-name-or-path=org/model", None, "", None)
    assert named.model.model_name_or_path == "org/model"


@pytest.mark.parametrize("verb", ["study", "tune"])
def test_a_setting_that_every_arm_replaces_is_refused_however_it_is_written(capsys, verb):
    for typed in ("train.learning-rate=1", "train={learning_rate: 1}", "train.learning_rate =1"):
        assert main([verb, "--preset", "nano", typed]) == 2
        assert "train.learning_rate is set by the arms themselves (full-main" in capsys.readouterr().err


def test_one_line_before_the_first_step_says_what_will_run(capsys, tiny_model, tmp_path):
    data = ["data.max_train_samples=40", "data.max_test_samples=4", "data.dev_size=4", "run.threads=1"]
    assert (
        main(["eval", str(tiny_model), "eval.max_new_tokens=3", f"run.output_dir={tmp_path}/r", *data]) == 0
    )
    first, warning = capsys.readouterr().err.splitlines()[:2]
    assert first == "preset general; chat prompt, 0 shots; cpu, float32 (exact on a CPU), 1 threads"
    assert warning.startswith("eval.max_new_tokens=3 cuts right answers: 40 of 40 train solutions are longer")
    assert (
        main(["sft", "--init", str(tiny_model), "train.max_length=2", f"run.output_dir={tmp_path}/s", *data])
        == 2
    )
    assert capsys.readouterr().err.splitlines()[0] == (
        "preset general; learning rate 1e-05 (cosine_with_min_lr); chat prompt, 0 shots; "
        "cpu, float32 (exact on a CPU), 1 threads"
    )


HEAVY = {
    "torch",
    "transformers",
    "numpy",
    "omegaconf",
    "yaml",
    "datasets",
    "matplotlib",
    "scipy",
    "importlib.metadata",
}


@pytest.mark.parametrize(
    ("words", "room", "more"),
    [
        (["--help"], "reckoner.cli", {"rich"}),
        (["grade", "a.jsonl"], "reckoner.analysis.grade", {"rich", "reckoner.runs.documents"}),
    ],
)
def test_start_up_imports_nothing_heavy(tmp_path, words, room, more):
    (tmp_path / "a.jsonl").write_text('{"completion": "#### 1", "gold": "1"}\n')
    code = f"import sys; from reckoner.cli import main; main({words}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    loaded = set(done.stderr.split())
    assert room in loaded and not loaded & (HEAVY | more)


def test_only_the_verb_asked_for_is_built():
    """Typer evaluates the signature of every verb that it builds, which took a third of a start."""
    for words, built in ((["grade", "sft"], ["grade"]), (["--debug", "data", "x"], ["data"])):
        assert list(typer.main.get_command(cli._holding(words)).commands) == built
    assert cli._holding(["graed"]) is cli._holding(["--help"]) is cli.app


GOOD = "".join(
    json.dumps({"question": f"What is {i}+1?", "answer": f"{i}+1={i + 1}\n#### {i + 1}"}) + "\n"
    for i in range(60)
)


@pytest.mark.parametrize(
    ("content", "settings", "says"),
    [
        (None, [], ["my.jsonl: no such file or folder"]),
        ("", [], ["my.jsonl: holds no problems"]),
        (GOOD + '{"question": "x", \n', [], ["my.jsonl line 61: not JSON"]),
        (
            GOOD + '{"question": "x", "solution": "#### 1"}\n',
            [],
            [
                'line 61: no field "answer" (fields: question, solution). '
                "Name it with data.solution_field=solution"
            ],
        ),
        (GOOD + '{"question": "x", "answer": "one"}\n', [], ["line 61: no ####", "data.gold_pattern"]),
        (GOOD + '{"question": "x", "answer": 5}\n', [], ['line 61: field "answer" holds int']),
        (GOOD + GOOD[:40] + GOOD[40:].split("\n")[0] + "\n", [], ["line 61: the same question as line 1"]),
        (b"\xff\xfe{}\n", [], ["my.jsonl line 1", "is not UTF-16 text"]),  # an odd number of bytes
        (GOOD, [], ["60 problems are too few", "data.dev_size=0.1"]),
        (GOOD, ["data.gold_pattern=("], ["data.gold_pattern=( is not a regular expression"]),
        (
            GOOD,
            ["data.dev_size=0.1", "data.gold_pattern=(zzz)"],
            ["line 1: data.gold_pattern finds no gold", "54 more"],
        ),
        (GOOD, ["data.dev_size=0.1", "data.test_path=nowhere.jsonl"], ["nowhere.jsonl: cannot be read"]),
    ],
)
def test_bad_data_is_one_line_and_code_2(tmp_path, content, settings, says):
    if content is not None:
        (tmp_path / "my.jsonl").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused("data", "stats", "data.path=my.jsonl", *settings, cwd=tmp_path, says=says)


def test_statistics_of_a_file_of_ones_own(tmp_path):
    (tmp_path / "my.jsonl").write_text(GOOD)
    done = reckon("data", "stats", "data.path=my.jsonl", "data.dev_size=0.1", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert {name: part["problems"] for name, part in found["sets"].items()} == {"train": 46, "dev": 6}
    assert [(file["path"], file["rows"], file["published"]) for file in found["files"]] == [
        ("my.jsonl", 60, "")
    ]
    printed = reckon("data", "stats", "data.path=my.jsonl", "data.dev_size=0.1", cwd=tmp_path).stdout
    assert printed.splitlines()[1].split() == ["problems", "46", "6"] and "\x1b" not in printed


def test_made_problems_are_data(tmp_path):
    made = reckon("data", "make", "--n", 40, "--seed", 5, "--category", "ages", cwd=tmp_path)
    rows = [json.loads(line) for line in made.stdout.splitlines()]
    assert len(rows) == 40 and {row["category"] for row in rows} == {"ages"} and made.stderr == ""
    written = reckon(
        "data", "make", "--n", 40, "--seed", 5, "--category", "ages", "--output", "ages.jsonl", cwd=tmp_path
    )
    assert written.stdout == "" and (tmp_path / "ages.jsonl").read_text() == made.stdout
    problems = gsm8k.load("train", path=str(tmp_path / "ages.jsonl"), dev_size=5)
    assert len(problems) == 27 and {problem.category for problem in problems} == {"ages"}
    assert {problem.id for problem in problems} < {row["id"] for row in rows}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--n", 0], ["--n"]),
        ([], ["--n"]),
        (["--n", "1e3"], ["--n"]),
        (["--n", 3, "--seed", "1.5"], ["--seed"]),
        (["--n", 3, "--category", "agess"], ["agess", "ages"]),
        (["--n", 3, "--variant", "mian"], ["mian"]),
        (["--n", 3, "--output", "no/such/folder.jsonl"], ["no/such/folder.jsonl: cannot be written"]),
    ],
)
def test_problems_that_cannot_be_made(arguments, says):
    refused("data", "make", *arguments, says=says)


def test_an_interrupt_is_one_line_and_code_75():
    command = [sys.executable, "-m", "reckoner", "data", "make", "--n", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline().startswith('{"id"')
        running.send_signal(signal.SIGINT)
        running.stdout.read()
        assert running.stderr.read().startswith("reckon: interrupted. ")
    assert running.returncode == 75


def test_a_reader_that_goes_away_ends_a_command_as_sigpipe_ends_others():
    done = subprocess.run(
        [
            "bash",
            "-c",
            f"{sys.executable} -m reckoner data make --n 100000 | head -n 1; exit ${{PIPESTATUS[0]}}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith('{"id": "nano-0-000000"') and done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_signal_at_any_moment_ends_without_a_traceback(tmp_path):
    """From before the imports to the first step; the interpreter's own start, in which Python answers,
    takes 0.1 s.
    """
    random = Random(1)
    command = [sys.executable, "-m", "reckoner", "sft", "--preset", "smoke", f"run.output_dir={tmp_path}/r"]
    for second, number in enumerate([signal.SIGINT, signal.SIGTERM] * 2):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
            time.sleep(0.1)
            while "reckoner" not in (
                started := Path(f"/proc/{running.pid}/cmdline").read_text()
            ) or not caught(running.pid):
                assert started
            time.sleep(random.uniform(second, second + 1))
            running.send_signal(number)
            said = running.stderr.read()
        own = [line for line in said.splitlines() if line.startswith("reckon: ")]
        assert (
            running.returncode == 75 and "Traceback" not in said and own in ([], [f"reckon: {INTERRUPTED}"])
        ), said


def caught(pid: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM, which the interpreter has not."""
    line = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt")
    )
    return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_standard_stream_is_no_bug(closed, tmp_path):
    def run(words):
        command = f"{sys.executable} -m reckoner {words} {closed}"
        return subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )

    good, bad = run("data make --n 3 --output made.jsonl"), run("data stats oops")
    assert good.returncode == 0 and len((tmp_path / "made.jsonl").read_text().splitlines()) == 3
    assert bad.returncode == 2 and "Traceback" not in good.stderr + bad.stderr
    assert run("grade -").returncode == 2 or "<" not in closed


def test_a_question_that_is_not_utf_8_is_refused(tiny_model, start_reckon):
    done = start_reckon("chat", tiny_model, "eval.max_new_tokens=2", "run.threads=1", stdin=b"caf\xe9?\n")
    assert done.wait().returncode == 2 and "reckon: the question is not UTF-8 text" in done.stderr


def test_no_network_is_one_line():
    """Nothing answers at this address, so that every attempt fails at once; no pause is made between them."""
    code = "import sys, time; time.sleep = bool; from reckoner.__main__ import main; sys.exit(main())"
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, "data", "stats", "data.source=gsm8k"],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be had from the Hub" in done.stderr


def test_labels_are_shown_as_they_are_learnt(tmp_path, start_reckon):
    (tmp_path / "my.jsonl").write_text(GOOD)
    done = start_reckon("data", "show-labels", "-n", 2, "data.path=my.jsonl", "data.dev_size=0.1").wait()
    heads = [line for line in done.stdout.splitlines() if line.startswith("train-")]
    assert done.returncode == 0, done.stderr
    assert len(heads) == 2 and " prompt tokens, " in heads[0]
    supervised = re.findall(r"\[(.*?)/\d+\]", done.stdout.split(heads[1])[0])
    assert re.fullmatch(r" (\d+)\+1=(\d+)\\n#### \2<eos>", "".join(supervised).replace("·", " "))
    assert done.stdout.count("<bos>/") == 2


def test_labels_of_a_chat_end_with_the_turn(start_reckon):
    done = start_reckon("data", "show-labels", "-n", 1, "prompt.chat_template=on").wait()
    assert done.stdout.rstrip().endswith("<end_of_turn>/4]") and done.stdout.count("<bos>/") == 1


@pytest.mark.parametrize("verb", [["sft", "--preset", "smoke"], ["compare", "a.jsonl", "b.jsonl"]])
def test_a_limit_of_addresses_below_what_libraries_map_is_one_line(verb):
    """OpenBLAS would try for ever to get its buffers, and Numba end in a traceback."""
    limit = (10**9, resource.getrlimit(resource.RLIMIT_AS)[1])
    command = [sys.executable, "-m", "reckoner", *verb]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "ulimit -v allows 976,562 KiB of addresses, and the libraries need 2,097,152" in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        [
            "predict",
            "{model}",
            "--input",
            "{questions}",
            "run.threads=1",
            "eval.max_new_tokens=2",
        ],
        ["chat", "{model}", "eval.max_new_tokens=2", "run.threads=1"],
        [
            "doctor",
            "{model}",
            "eval.max_new_tokens=2",
            "data.dev_size=4",
            "data.max_train_samples=8",
            "run.threads=1",
        ],
        ["plan", "model.model_name_or_path={model}", "--json"],
    ],
    ids=lambda words: words[0],
)
def test_no_verb_gives_another_model_the_settings_of_the_embedded_one(
    words, tiny_model, tmp_path, capsys, monkeypatch
):
    """Its preset switches chat templates off, and its rates are a hundred times those of `general`."""
    (tmp_path / "questions.jsonl").write_text('{"question": "1 + 1?"}\n')
    monkeypatch.setattr("sys.stdin", io.StringIO("1 + 1?\n"))
    filled = [word.format(model=tiny_model, questions=tmp_path / "questions.jsonl") for word in words]
    assert main(filled) == 0
    printed = capsys.readouterr()
    if words[0] == "plan":
        planned = {one["name"] for one in json.loads(printed.out)}
        assert "lora-socratic" not in planned and "full-main" in planned
    else:
        assert printed.err.startswith("preset general; ")
        assert words[0] == "doctor" or "chat prompt, 0 shots" in printed.err.splitlines()[0]


SUBQUESTIONS = "We split it.\nQ: What is known?\nA: {0}*2=<<{0}*2={1}>>{1} pens.\n#### {1}"


@pytest.mark.parametrize(
    "verb", [["sft", "prompt.shots=0"], ["sft", "prompt.shots=1"], ["eval", "prompt.shots=1"]]
)
def test_solutions_that_hold_a_stop_string_are_refused_before_anything_is_written(tmp_path, verb, capsys):
    """Generation stops there: as references they teach what is cut, as examples they show it."""
    rows = [{"question": f"Two boxes of {n}?", "answer": SUBQUESTIONS.format(n, 2 * n)} for n in range(40)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"data.path={tmp_path / 'd.jsonl'}", "data.dev_size=4", f"run.output_dir={tmp_path / 'run'}"]
    settings += ["eval.split=dev"] if verb[0] == "eval" else []
    name, *own = verb
    command = [name, "nano"] if name == "eval" else [name, "--init", "nano"]
    assert main([*command, *own, *settings]) == 2
    said = capsys.readouterr().err
    shown = "examples of the prompt (prompt.shots)" if own == ["prompt.shots=1"] else "training solutions"
    assert "hold a string at which generation stops" in said and "Q: What is known?" in said
    assert shown in said and not (tmp_path / "run" / "model").exists()
