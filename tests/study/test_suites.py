"""Further sets of a study: asked of every arm, once, and refused before anything runs."""

import json
import re

import pytest

from reckoner.config import build_config
from reckoner.errors import InputError
from reckoner.study import arms as plans
from reckoner.study import run as study


def suite(folder, name, rows):
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = folder / f"{name}.yaml"
    file.write_text(f"data: {{source: hub, test_path: {folder / name}.jsonl}}\n")
    return str(file)


def started(tiny_config, folder, **named):
    base = tiny_config.to_dict()
    base["run"]["output_dir"] = str(folder / "s")
    base["study"] = {"arms": {"prompt": {}, "first": {"method": "sft"}}, **named}
    config = build_config([(base, {})])
    arms = plans.plan_study(config)
    return lambda: study.run_study(config, arms, arms, "reckon study")


def test_every_arm_answers_every_set_once_and_resuming_asks_nothing(tiny_config, tmp_path):
    rows = [{"question": f"How many are {i} and 90?", "answer": f"#### {i + 90}"} for i in range(5)]
    named = {"suites": [suite(tmp_path, "sums", rows)], "forgetting": [suite(tmp_path, "old", rows[:3])]}
    folder = started(tiny_config, tmp_path, **named)()
    assert json.loads((folder / "suites.json").read_text()) == {"suites": ["sums"], "forgetting": ["old"]}
    for arm in ("prompt", "first"):
        entries = json.loads((folder / arm / "summary.json").read_text())["evaluations"]
        held = {entry["split"]: (entry["n"], entry["reads"]) for entry in entries}
        assert held["sums"] == (5, 1) and held["old"] == (3, 1) and "test" in held
    before = (folder / "first" / "summary.json").read_bytes()
    started(tiny_config, tmp_path, **named)()
    assert (folder / "first" / "summary.json").read_bytes() == before


def test_a_known_set_is_read_from_the_users_own_copy(tiny_config, tmp_path):
    rows = [{"Body": "Ann has 3 pens.", "Question": f"With {i} more?", "Answer": i + 3} for i in range(4)]
    copied = tmp_path / "SVAMP.json"
    copied.write_text(json.dumps([row | {"Type": "Addition"} for row in rows]))
    folder = started(tiny_config, tmp_path, suites=[f"svamp={copied}"])()
    assert json.loads((folder / "suites.json").read_text())["suites"] == ["svamp"]
    asked = [json.loads(line) for line in (folder / "prompt/problems/svamp.jsonl").read_text().splitlines()]
    assert asked[1]["question"] == "Ann has 3 pens. With 1 more?"
    assert [one["gold"] for one in asked] == ["3", "4", "5", "6"]
    with pytest.raises(InputError, match=r"data\.suite=svamp= names no file. Write svamp=FILE"):
        started(tiny_config, tmp_path / "none", suites=["svamp="])()
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        started(tiny_config, tmp_path / "other", suites=[f"svamp={tmp_path / 'absent.json'}"])()


def test_questions_that_are_nearly_those_of_train_are_told(tiny_config, tmp_path, caplog):
    from reckoner.evaluation.session import load_problems

    learnt = load_problems(tiny_config, "train")[0].question
    numbers = re.sub(r"\d+", "97", learnt)
    rows = [{"question": text, "answer": "#### 1"} for text in (f"{learnt} Why?", numbers, "How many?")]
    started(tiny_config, tmp_path, suites=[suite(tmp_path, "near", rows)])()
    assert "2 of 3 questions of" in caplog.text and "are nearly train questions" in caplog.text


def test_a_set_that_stands_in_train_or_cannot_be_read_is_refused_before_anything_runs(tiny_config, tmp_path):
    from reckoner.evaluation.session import load_problems

    learnt = load_problems(tiny_config, "train")[0]
    rows = [{"question": learnt.question, "answer": learnt.solution}, {"question": "q", "answer": "#### 1"}]
    with pytest.raises(InputError, match=r"1 of 2 questions of .*known.yaml stand in the train data"):
        started(tiny_config, tmp_path, suites=[suite(tmp_path, "known", rows)])()
    with pytest.raises(InputError, match="data.suite=svam is not a known set"):
        started(tiny_config, tmp_path, suites=["svam"])()
    assert not (tmp_path / "s" / "first").exists()
