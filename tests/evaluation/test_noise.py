"""The noise floor of a run: counted flips, kept in the run, and shown beside a difference."""

from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.algorithms import ALGORITHMS
from reckoner.analysis.compare import compare
from reckoner.analysis.readers import CompletionSet
from reckoner.errors import InputError
from reckoner.evaluation import noise
from reckoner.evaluation.session import load_problems
from reckoner.runs.records import Grade, read_json
from reckoner.verify import verify


def test_a_run_keeps_its_noise_floor_and_still_verifies(tiny_config, monkeypatch):
    ALGORITHMS["sft"].train(tiny_config)
    folder = tiny_config.run.output_dir
    config = replace(tiny_config, model=replace(tiny_config.model, model_name_or_path=folder))
    dev, real, calls = load_problems(config, "dev"), noise.answers, []

    def tipped(policy, prompt, problems, sampling, settings):
        """In reverse order the first dev problem is solved by chance."""
        calls.append(([one.id for one in problems], settings.batch_size, settings.engine, str(policy.dtype)))
        drawn = real(policy, prompt, problems, sampling, settings)
        if problems[0].id == dev[-1].id:
            last = drawn[-1]
            text = replace(last.completion, text=f"#### {last.problem.gold}")
            drawn[-1] = type(last)(last.problem, last.prompt_ids, text, last.tokens)
        return drawn

    monkeypatch.setattr(noise, "answers", tipped)
    found = noise.measure_noise(config)
    assert found["n"] == len(dev) == 8
    assert list(found["ways"]) == ["batches of 2", "reverse order", "engine transformers", "dtype bfloat16"]
    assert found["ways"]["batches of 2"] == {"flips": 0, "texts": 0, "net": 0}
    assert found["ways"]["reverse order"] == {"flips": 1, "texts": 1, "net": 1}
    assert [one[1] for one in calls][:2] == [config.eval.batch_size, 2]
    assert calls[3][2] == "transformers" and calls[4][3] == "torch.bfloat16"
    assert read_json(Path(folder) / "noise.json") == found
    assert verify(Path(folder))[0].faults == ()


def test_what_is_no_finished_run_is_refused(tiny_config):
    with pytest.raises(InputError, match="no finished run here"):
        noise.measure_noise(tiny_config)


def arm(name: str, right: int, **settings) -> CompletionSet:
    grades = {
        (f"p{i}", 0): Grade(
            f"p{i}", 0, i < right, i < right, "1", "1", "correct" if i < right else "wrong", 1
        )
        for i in range(100)
    }
    return CompletionSet(name, grades, settings=settings)


def test_a_difference_below_the_floor_is_called_so():
    ways = {
        "reverse order": {"flips": 1, "texts": 3, "net": 0},
        "dtype bfloat16": {"flips": 12, "texts": 90, "net": 2},
    }
    measured = {"split": "dev", "n": 400, "ways": ways}
    notes = compare([arm("a", 52, noise=measured), arm("b", 50), arm("c", 70)]).notes
    assert (
        "Noise floor of a: computed otherwise (worst: dtype bfloat16), 12 of 400 verdicts on dev flip, "
        "3.0 % (1.7-5.2)." in notes
    )
    below = [note for note in notes if "below the noise floor" in note]
    assert below == [
        "a against b: the difference is below the noise floor: a flip rate of up to 5.2 % is not excluded."
    ]


@pytest.mark.parametrize(("right", "below"), [(53, 1), (54, 0)])
def test_no_flip_of_a_hundred_still_leaves_a_floor_of_3_7_points(right, below):
    measured = {"split": "dev", "n": 100, "ways": {"reverse order": {"flips": 0, "texts": 0, "net": 0}}}
    notes = compare([arm("a", right, noise=measured), arm("b", 50)]).notes
    assert any("0 of 100 verdicts on dev flip, 0.0 % (0.0-3.7)." in note for note in notes)
    assert sum("a flip rate of up to 3.7 % is not excluded" in note for note in notes) == below
