"""The exported task; what lm-eval 0.4.13 wrote when it ran one is read in tests/analysis/test_tools.py."""

import importlib.util
import json

import pytest
import yaml

from reckoner.cli import main
from reckoner.config import build_config
from reckoner.evaluation.evaluate import make_prompt
from reckoner.evaluation.sample import ask
from reckoner.evaluation.session import load_problems
from reckoner.models.policy import load_encoder
from reckoner.tasks.answers.number import grade_text

SETTINGS = ("eval.split=test", "data.max_test_samples=8", "--set", "prompt.shots=1")  # old commands too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("task") / "out"
    assert main(["export", "lm-eval", "nano", "--output", str(out), *SETTINGS]) == 0
    return out


def test_the_harness_is_given_the_tokens_of_our_prompts(folder):
    asked = {"shots": 1, "chat_template": "off"}
    config = build_config([({"data": {"max_test_samples": 8}, "prompt": asked}, {})])
    reader = load_encoder(config.model)
    prompt, problems = make_prompt(config, reader), load_problems(config, "test")
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [problem.id for problem in problems]
    for row, problem in zip(rows, problems, strict=True):
        ids = reader.tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        assert ids == ask(reader, prompt, problem.question) and row["gold"] == problem.gold


def test_the_task_asks_greedily_and_stops_where_we_do(folder):
    text = (folder / "reckoner_nano_test.yaml").read_text()
    assert text.endswith("process_results: !function reckoner_grading.process_results\n")
    task = yaml.safe_load(text.replace("!function ", ""))
    asked = task["generation_kwargs"]
    assert asked["do_sample"] is False and "\nQuestion:" in asked["until"]
    assert 100 < asked["max_gen_toks"] < 400
    assert [one["metric"] for one in task["metric_list"]] == ["strict", "flexible"]


ANSWERS = ["#### 12", "12", "#### 12 or 13", "#### 1,2", "$12.00", "-12", "", "#### 12\n\nQ: ?"]


@pytest.mark.parametrize("text", ANSWERS)
def test_its_grader_is_ours(folder, text):
    where = importlib.util.spec_from_file_location("exported", folder / "reckoner_grading.py")
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    doc = {**json.loads((folder / "test.jsonl").read_text().splitlines()[0]), "gold": "12"}
    ours = grade_text(text, "12")
    assert module.process_results(doc, [text]) == {"strict": ours.strict, "flexible": ours.flexible}


def test_a_limit_is_asked_for_where_no_train_problems_tell_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.jsonl").write_text('{"question": "What is 3 + 4?", "answer": "7\\n#### 7"}\n')
    words = ["eval", "nano", "data.test_path=own.jsonl", "eval.split=test", "--json"]
    assert main(words) == 2
    assert "Give the limit, as eval.max_new_tokens=256" in capsys.readouterr().err
    assert main([*words, "eval.max_new_tokens=4"]) == 0
    entry = json.loads(capsys.readouterr().out)
    assert (entry["n"], entry["max_new_tokens"]) == (1, 4)


def test_what_is_not_exported(folder, capsys):
    assert main(["export", "lm-eval", "nano", "--output", str(folder)]) == 2
    assert "is not empty. Name a new folder" in capsys.readouterr().err
    assert main(["export", "olmes", "nano"]) == 2
    assert "Write reckon export lm-eval RUN" in capsys.readouterr().err
