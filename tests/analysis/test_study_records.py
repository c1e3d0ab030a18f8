"""A study folder is read as it was written, and a faulty one is named by file and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.analysis.study_records import best_prompt, read_run, read_study
from reckoner.errors import InputError
from reckoner.runs.integrity import manifest, run_files


@pytest.fixture
def study(tmp_path, study_writer) -> Path:
    return study_writer(tmp_path / "s", arms=("0shot", "1shot", "full-main"))


def change(path: Path, edit: Callable[[dict], object]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_reads_arms_runs_and_states(study_path):
    study = read_study(study_path)
    assert (study.name, study.preset, study.seed, study.model, study.command) == (
        "nano",
        "nano",
        0,
        "nano",
        "reckon study",
    )
    assert [arm.name for arm in study.scored][:3] == ["0shot", "0shot-instruction", "1shot"] and len(
        study.scored
    ) == 8
    assert [arm.name for arm in study.trained] == ["full-main", "full-socratic", "lora-main", "lora-socratic"]
    assert {arm.name: (arm.state, arm.run) for arm in study.arms[8:]} == {
        state: (state, None) for state in ("refused", "failed", "waiting")
    }
    assert study.arm("failed").reason == "loss is not finite at step 7" and study.arm("failed").after == (
        "full-main",
    )


def test_reads_counts_and_costs(study_path):
    run = read_study(study_path).arm("lora-main").run
    test = run.evaluation("test")
    # p-02 to p-32 are right; of the 29 others 58 ends in 8 with 38 and 48, 59 in 9 with 39 and 49
    assert (test.n, test.strict, test.truncated, test.no_answer, test.max_new_tokens, test.reads) == (
        60,
        31,
        3,
        3,
        96,
        1,
    )
    assert (run.training.seconds, run.training.tokens, run.training.trainable_parameters) == (
        16.0,
        200_000,
        60_000,
    )
    assert (run.variant, run.grader) == ("main", "reckoner-2")
    assert run.evaluation("train") is None


def test_series_takes_the_clock_of_the_line_before(study_path):
    run = read_study(study_path).arm("full-main").run
    assert run.series("dev_strict") == ([0, 10, 20, 30, 40], [0, 5, 10, 15, 20])
    assert run.series("dev_strict", by="seconds") == ([0, 5, 10, 15, 20], [0, 5, 10, 15, 20])
    steps, losses = run.series("loss")
    assert (
        len(steps) == 40
        and losses[0] == pytest.approx(1 + 3 + 0.05)
        and losses[1] == pytest.approx(1 + 3 * 0.85)
    )
    assert run.series("reward") == ([], [])


def test_baseline_is_the_best_prompt_on_dev_not_on_test(study_path):
    study = read_study(study_path)
    # one-shot solves more of test (6 of 60), one-shot + instruction more of dev (5 of 40)
    assert study.baseline.name == "1shot-instruction"
    assert best_prompt(study.arms[:3]).name == "1shot"
    assert best_prompt(study.trained) is None


def test_the_best_prompt_is_the_better_of_strict_and_format_forgiven(study_path):
    """What the untrained model can do counts, also where it does not write the format (PROTOCOL line 5)."""
    arms = read_study(study_path).arms
    (dev,) = (evaluation for evaluation in arms[0].run.evaluations if evaluation.split == "dev")
    forgiven = replace(dev, strict=0, flexible=30)
    others = tuple(other for other in arms[0].run.evaluations if other is not dev)
    first = replace(arms[0], runs={0: replace(arms[0].run, evaluations=(forgiven, *others))})
    assert best_prompt([first, *arms[1:]]).name == arms[0].name


def test_a_trained_model_that_is_asked_in_another_way_is_no_baseline(study_path):
    """Else a vote among samples of a trained arm would be the best prompt that all others have to beat."""
    arms = read_study(study_path).arms
    best = best_prompt(arms)
    assert best.untrained and not arms[4].untrained
    voted = replace(best, after=("full-main",))
    assert not voted.untrained
    assert best_prompt([voted if arm is best else arm for arm in arms]).name == "1shot"


def test_pairs_name_the_baseline_and_skip_arms_without_result(study_path):
    base = "1shot-instruction"
    trained = ("full-main", "full-socratic", "lora-main", "lora-socratic")
    siblings = (("full-main", "lora-main"), ("full-socratic", "lora-socratic"))
    assert read_study(study_path).pairs == (*((name, base) for name in trained), *siblings)


def test_pairs_default_to_each_trained_arm_with_the_baseline(study):
    change(study / "study.json", lambda d: d.update(pairs=[]))
    assert read_study(study).pairs == (("full-main", "1shot"),)


def test_values_that_are_no_finite_numbers_are_left_out_of_metrics(study):
    with open(study / "full-main" / "metrics.jsonl", "a") as file:
        file.write('{"step": 41, "loss": NaN, "note": "x", "seconds": 21}\n')
    assert read_study(study).arm("full-main").run.metrics[-1] == {"step": 41, "seconds": 21}


@pytest.mark.parametrize(("n", "said"), [(19, "20 right of 19 on dev is impossible"), (0, "20 right of 0")])
def test_more_right_than_answered_is_one_line(study, n, said):
    change(study / "full-main" / "summary.json", lambda value: value["evaluations"][0].update(n=n))
    with pytest.raises(InputError, match=f"summary.json: {said}"):
        read_run(study / "full-main")


def test_prompting_run_needs_only_its_evaluations(study):
    path = study / "0shot" / "summary.json"
    path.write_text(json.dumps({"evaluations": json.loads(path.read_text())["evaluations"]}))
    run = read_run(study / "0shot")
    assert (run.name, run.training, run.evaluation("test").strict) == ("0shot", None, 2)


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("study.json", lambda d: d.pop("name"), "study.json: object missing required field `name`"),
        ("study.json", lambda d: d.update(seed="0"), "study.json: seed: expected `int`, got `str`"),
        ("study.json", lambda d: d.update(arms={}), "study.json: arms: expected `array`, got `object`"),
        ("study.json", lambda d: d["arms"].append(7), r"arms\[6\]: expected `object`, got `int`"),
        ("study.json", lambda d: d["arms"].append(d["arms"][0]), "two arms have the same name"),
        ("study.json", lambda d: d["arms"][0].update(folder="../elsewhere"), "leaves the folder"),
        ("study.json", lambda d: d["arms"][0].update(folder="/etc"), "leaves the folder"),
        ("study.json", lambda d: d["arms"][3].update(state="done"), "refused: no finished run here"),
        (
            "study.json",
            lambda d: d["pairs"].append(["full-main"]),
            r"pairs\[\d\]: expected `array` of length 2",
        ),
        ("study.json", lambda d: d["pairs"].append(["full-main", "nobody"]), "no arm is called 'nobody'"),
        (
            "0shot/summary.json",
            lambda d: d["evaluations"][0].pop("strict"),
            r"evaluations\[0\]: object missing required field `strict`",
        ),
        (
            "0shot/summary.json",
            lambda d: d["evaluations"][0].update(n="60"),
            r"evaluations\[0\].n: expected `int`, got `str`",
        ),
        (
            "0shot/summary.json",
            lambda d: d["evaluations"][0].update(split=3),
            r"evaluations\[0\].split: expected `str`, got `int`",
        ),
        (
            "0shot/summary.json",
            lambda d: d["evaluations"][0].update(grades="../g.jsonl"),
            "leaves the folder",
        ),
        (
            "0shot/summary.json",
            lambda d: d.update(evaluations=None),
            "evaluations: expected `array`, got `null`",
        ),
        (
            "full-main/summary.json",
            lambda d: d["training"].pop("steps"),
            "training: object missing required field `steps`",
        ),
        (
            "full-main/summary.json",
            lambda d: d.update(training=5),
            r"training: expected `object \| null`, got `int`",
        ),
    ],
)
def test_faults_are_named(study, file, edit, message):
    change(study / file, edit)
    with pytest.raises(InputError, match=message) as caught:
        read_study(study)
    assert file.rpartition("/")[2].removesuffix(".json") in str(caught.value) or "summary" in str(
        caught.value
    )


def test_a_finished_run_is_read_as_its_manifest_has_it(study):
    folder = study / "0shot"
    (folder / "MANIFEST.json").write_text(json.dumps(manifest(folder, run_files(folder))))
    grades = next((folder / "grades").glob("*.jsonl"))
    assert read_run(folder).evaluation("test").strict == 2
    grades.write_text(grades.read_text().replace('"strict": false', '"strict": true', 1))
    with pytest.raises(InputError, match=f"{grades}: has changed since the run finished"):
        read_run(folder)


def test_a_folder_that_is_no_study(tmp_path):
    with pytest.raises(InputError, match=r"has no study\.json"):
        read_study(tmp_path)
    for content in ("[1]", "{", "[" * 100_000):
        (tmp_path / "study.json").write_text(content)
        with pytest.raises(InputError, match=r"study\.json: (expected `object`|cannot be read)"):
            read_study(tmp_path)


def test_a_run_of_several_seeds_is_called_after_its_arm_too(study_writer, tmp_path):
    folder = study_writer(tmp_path / "s", ("full-main",)) / "full-main"
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "name": "seed-1"}))
    assert read_run(folder.rename(tmp_path / "s" / "seed-1")).name == "s/seed-1"
