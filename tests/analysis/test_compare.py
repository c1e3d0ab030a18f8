"""Comparisons on a study worked out by hand, on the shipped real completions, and what must be refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.analysis.compare import compare
from reckoner.analysis.intervals import wilson
from reckoner.analysis.pairs import compare_both_ways, pair_sentence
from reckoner.analysis.readers import CompletionSet, read_completion_set, read_completion_sets
from reckoner.analysis.statistics import mcnemar, paired_interval
from reckoner.analysis.tables import arm_table, pair_table, sampling_table
from reckoner.errors import InputError
from reckoner.runs.records import Completion, Grade, Problem, write_jsonl

SOLUTIONS = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl"


def graded(name: str, right: str, **kept) -> CompletionSet:
    """One item a character: `1` right, `0` wrong; "10,01" are two samples of each item."""
    rows = list(enumerate(right.split(",")))
    grades = {
        (f"q{item}", sample): Grade(
            f"q{item}", sample, mark == "1", mark == "1", mark, mark, "correct" if mark == "1" else "wrong", 1
        )
        for sample, row in rows
        for item, mark in enumerate(row)
    }
    return CompletionSet(name, grades, **{"grader": "reckoner-2", **kept})


@pytest.fixture(scope="module")
def openai(tmp_path_factory) -> list[CompletionSet]:
    if not SOLUTIONS.is_file():
        pytest.skip("the real GSM8K completions are not beside this checkout")
    folder = tmp_path_factory.mktemp("openai")
    rows = [json.loads(line) for line in SOLUTIONS.read_bytes().splitlines()]
    marked = [row["ground_truth"].replace("\nA: ", "\n#### ") for row in rows]
    write_jsonl(
        folder / "gold.jsonl",
        [
            {"id": f"test-{i}", "question": r["question"], "solution": s}
            for i, (r, s) in enumerate(zip(rows, marked, strict=True))
        ],
    )
    names = ["6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"]
    for name in names:
        write_jsonl(
            folder / f"{name}.jsonl",
            [
                {"id": f"test-{i}", "completion": row[name]["solution"].replace("\nA: ", "\n#### ")}
                for i, row in enumerate(rows)
            ],
        )
    return read_completion_sets([folder / f"{name}.jsonl" for name in names], folder / "gold.jsonl")


def test_the_real_completions_give_the_published_test(openai):
    result = compare(openai, pairs=[("6b_verification", "175b_finetuning")])
    assert [arm.correct for arm in result.arms] == [286, 515, 458, 742]
    (pair,) = result.pairs
    assert (pair.difference.fixed, pair.difference.broken) == (209, 152)
    assert round(pair.difference.p, 4) == round(pair.p_holm, 4) == 0.0032
    assert pair.verdict == "better" and pair.needs is None
    assert pair_sentence(pair).startswith(
        "this run of 6b_verification is better than that of 175b_finetuning: +4.3 points"
    )


def test_a_family_is_corrected_together(openai):
    result = compare(openai)
    assert len(result.pairs) == 6
    by_names = {(pair.a, pair.b): pair for pair in result.pairs}
    assert by_names["6b_verification", "175b_finetuning"].p_holm == pytest.approx(mcnemar(209, 152))
    assert {pair.verdict for pair in result.pairs} == {"worse", "better"}
    table = pair_table(result.pairs)
    assert len(table.rows) == 6 and all(len(row) == 1 + len(table.columns) for row in table.texts())


def test_run_folders_of_a_study(study_path):
    result = compare(
        read_completion_sets([study_path / "full-main", study_path / "lora-main", study_path / "1shot"]),
        baseline="1shot",
    )
    assert (result.n, result.split, result.grader) == (60, "test", "reckoner-2")
    full, lora, shot = result.arms
    assert (full.correct, lora.correct, shot.correct) == (34, 31, 6)
    assert (full.low, full.high) == wilson(34, 60)
    assert [(pair.a, pair.b) for pair in result.pairs] == [("full-main", "1shot"), ("lora-main", "1shot")]
    difference = result.pairs[0].difference
    assert (difference.fixed, difference.broken) == (30, 2)
    assert (difference.low, difference.high) == paired_interval(30, 2, 60)
    assert full.truncated == pytest.approx(3 / 60) and full.no_answer == pytest.approx(3 / 60)


def test_a_predictions_file_in_a_run_is_graded_against_its_problems(study_path):
    source = read_completion_set(study_path / "full-main" / "predictions" / "test-0shot.jsonl")
    assert (source.name, source.split) == ("full-main/test-0shot", "test")
    assert sum(grade.strict for grade in source.grades.values()) == 34
    assert compare([source]).pairs == ()


def test_an_unresolved_pair_says_what_would_resolve_it():
    result = compare(
        [graded("a", "1" * 60 + "0" * 40), graded("b", "1" * 55 + "0" * 10 + "1" * 3 + "0" * 32)]
    )
    pair = result.pairs[0]
    assert (pair.difference.fixed, pair.difference.broken, pair.verdict) == (5, 3, "unresolved")
    assert pair.needs > 1000 and 0.05 < pair.detectable < 0.12
    assert "cannot be told apart at this n" in pair_sentence(pair) and "would resolve it" in pair_sentence(
        pair
    )
    assert "not told apart" in pair_table(result.pairs).texts()[0]


def test_equal_runs_need_nothing():
    pair = compare([graded("a", "1100"), graded("b", "1100")]).pairs[0]
    assert (pair.difference.p, pair.needs, pair.detectable, pair.verdict) == (1.0, None, None, "unresolved")


def test_seeds_of_one_arm_are_averaged_item_by_item():
    sources = [
        graded("sft@0", "1110"),
        graded("sft@1", "1100"),
        graded("base@0", "1000"),
        graded("base@1", "0000"),
    ]
    result = compare(sources)
    sft, base = result.arms
    assert (sft.name, sft.accuracy, sft.correct, sft.n) == ("sft", 0.625, 2.5, 4)
    assert sft.std == pytest.approx(0.25 / 2**0.5)
    assert [seed.correct for seed in sft.seeds] == [3, 2]
    difference = result.pairs[0].difference
    assert difference.estimate == 0.5 and difference.averaged
    # item differences 1/2, 1, 1/2, 0: all signs alike in 2 of 8 outcomes
    assert difference.p == pytest.approx(2 / 8)
    table = arm_table(result)
    assert table.columns[-2:] == ("each seed", "sd of seeds") and table.texts()[0][-2:] == [
        "75.0 50.0",
        "17.7",
    ]


def test_samples_are_averaged_and_unequal_numbers_refused():
    result = compare([graded("a", "10,11"), graded("b", "00,10")])
    assert [arm.accuracy for arm in result.arms] == [0.75, 0.25]
    assert [arm.correct for arm in result.arms] == [1.5, 0.5]
    lopsided = graded("c", "10,11")
    del lopsided.grades["q0", 1]
    with pytest.raises(InputError, match="'q0' has 1 samples and 'q1' has 2"):
        compare([lopsided])


def test_samples_give_pass_at_k_and_a_vote():
    arm, single = compare([graded("a", "10,10,00,11"), graded("b", "10")]).arms
    # item q0 is right 3 times of 4, q1 once; wrong answers all say "0"
    assert [(one.k, one.passed) for one in arm.sampling] == [
        (1, 0.5),
        (2, pytest.approx((1 + 0.5) / 2)),
        (4, 1.0),
    ]
    assert [one.voted for one in arm.sampling] == [0.5, pytest.approx((0.75 + 0.25) / 2), 0.5]
    assert single.sampling == ()


def test_templates_give_a_second_interval(study_path):
    pair = compare(read_completion_sets([study_path / "full-main", study_path / "1shot"])).pairs[0]
    low, high = pair.over_templates
    assert low < pair.difference.estimate < high
    assert compare([graded("a", "10"), graded("b", "11")]).pairs[0].over_templates is None


def test_unequal_items_are_refused_or_cut_to_the_shared_ones():
    a, b = graded("a", "1100"), graded("b", "110")
    with pytest.raises(InputError, match="--intersect") as refused:
        compare([a, b])
    assert (
        "a 4, b 3" in str(refused.value)
        and "'q3'" in str(refused.value)
        and "the 3 they share" in str(refused.value)
    )
    result = compare([a, b], intersect=True)
    assert result.n == 3 and "Only the 3 items" in result.notes[0]
    other = replace(a, name="c", grades={("x", 0): a.grades["q0", 0]})
    with pytest.raises(InputError, match="no item is in all"):
        compare([a, other], intersect=True)


def problem(gold: str) -> dict[str, Problem]:
    return {f"q{i}": Problem(f"q{i}", "?", "", gold, "main", "") for i in range(2)}


def completions(digest: str) -> dict[tuple[str, int], Completion]:
    return {(f"q{i}", 0): Completion(f"q{i}", 0, digest, "", 1, "stop", 0.0, "") for i in range(2)}


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({"grader": "reckoner-2"}, {"grader": "official"}, "graders differ"),
        ({"split": "test"}, {"split": "dev"}, "splits differ"),
        ({"problems": problem("5")}, {"problems": problem("6")}, "different gold"),
        (
            {"name": "x@0", "completions": completions("p1")},
            {"name": "x@1", "completions": completions("p2")},
            "prompted in 2 ways",
        ),
        ({"name": "x"}, {"name": "x"}, "given twice"),
    ],
)
def test_what_would_not_be_fair_is_refused(first, second, said):
    sources = [replace(graded("a", "10"), **first), replace(graded("b", "11"), **second)]
    with pytest.raises(InputError, match=said):
        compare(sources)


def test_what_may_differ_is_noted():
    a = replace(
        graded("a", "10", grader="unknown"), completions=completions("p1"), settings={"max_new_tokens": 128}
    )
    b = replace(graded("b", "11"), completions=completions("p2"), settings={"max_new_tokens": 256})
    result = compare([a, b])
    assert result.grader == "reckoner-2"
    assert [note.split(":")[0].split(" for")[0] for note in result.notes] == [
        "The grader is not recorded",
        "Prompts differ",
        "max_new_tokens differs",
    ]


def test_pairs_are_declared_by_name():
    sources = [graded("a", "10"), graded("b", "11"), graded("c", "00")]
    result = compare(sources, pairs=[("b", "a")], baseline="c")
    assert [(pair.a, pair.b) for pair in result.pairs] == [("b", "a"), ("a", "c"), ("b", "c")]
    for bad in ({"pairs": [("a", "z")]}, {"baseline": "z"}, {"pairs": [("a", "a")]}):
        with pytest.raises(InputError):
            compare(sources, **bad)
    with pytest.raises(InputError, match="nothing to compare"):
        compare([])


def test_runs_whose_training_took_unequal_operations_are_called_so():
    """Of the runs themselves: what they started from is not known here."""
    a, b = (graded(name, "101", settings={"operations": flops}) for name, flops in (("a", 2e12), ("b", 1e12)))
    said = "Training took unequal operations, without what each run started from: a 2e+12, b 1e+12."
    assert said in compare([a, b]).notes
    assert compare([a, replace(b, settings={"operations": 1.9e12})]).notes == ()


def test_the_noise_of_the_problems_and_of_the_samples_stand_apart():
    """Four problems, two samples: right 2, 1, 1 and 0 times.

    Shares 1, 1/2, 1/2, 0 have the variance 1/6, so that of their mean is 1/24. Within a problem the variances
    are 0, 1/2, 1/2, 0; their mean over two samples and four problems is 1/32, which leaves 1/96 to the
    problems.
    """
    result = compare([graded("a", "1100,1010"), graded("b", "1100,1010")])
    assert result.arms[0].errors == pytest.approx(((1 / 96) ** 0.5, (1 / 32) ** 0.5))
    first, second, *_ = sampling_table(result).rows
    assert [first.cells[f"error of the {what}"].text for what in ("problems", "samples")] == ["10.2", "17.7"]
    assert "error of the samples" not in second.cells
    alike = compare([graded("a", "1100,1100"), graded("b", "1100,0011")]).arms
    assert alike[0].errors == pytest.approx(((1 / 12) ** 0.5, 0)), "every sample says the same"
    assert alike[1].errors == (0.0, pytest.approx(0.25)), "each problem varies by 1/2 a sample: 1/2 / 2 / 4"
    assert compare([graded("a", "11"), graded("b", "10")]).arms[0].errors is None


def test_a_gap_that_is_format_alone_is_noted():
    """The prompt's numbers are right without their marker: strict says better, forgiven they are alike."""
    trained, prompt = graded("trained", "1" * 30 + "0" * 10), graded("prompt", "0" * 40)
    lenient = {key: replace(one, flexible=trained.grades[key].flexible) for key, one in prompt.grades.items()}
    found = compare_both_ways([trained, replace(prompt, grades=lenient)])
    assert found.pairs == compare([trained, prompt]).pairs
    assert found.notes[-1] == (
        "trained against prompt: with the format forgiven the difference is +0.0 points (-6.6 to +6.6; "
        "Holm p 1.00), so that the verdict is not told apart and not better. Format may be what was learned."
    )
    assert not any("forgiven" in note for note in compare_both_ways([trained, prompt]).notes)


@pytest.mark.parametrize("others", [(0, 1, 2), (4, 5, 6)])
def test_no_run_is_left_out_where_arms_do_not_have_the_same_seeds(others):
    solved = [39, 39, 41, 0], [32, 32, 29]
    inputs = [
        graded(f"{arm}@{seed}", "1" * right + "0" * (60 - right))
        for arm, numbers, counts in zip("AB", (range(4), others), solved, strict=True)
        for seed, right in zip(numbers, counts, strict=True)
    ]
    found = compare(inputs)
    a, b = found.arms
    pair = found.pairs[0]
    assert pair.difference.estimate == pytest.approx(119 / 240 - 93 / 180)
    assert pair.difference.estimate == pytest.approx(a.accuracy - b.accuracy)
    assert pair.verdict == "unresolved" and "cannot be told apart" in pair_sentence(pair)
    assert (
        "A and B do not have the same seeds: all runs count, and none is paired with another "
        f"(A@0, A@1, A@2, A@3; {', '.join(f'B@{seed}' for seed in others)})."
    ) in found.notes
