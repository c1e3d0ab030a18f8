"""What is made of train problems computes, names its parent, and never reaches dev or test."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from reckoner import nano
from reckoner.analysis.augment import augment, count_kinds, renumbered, reversed_question, sampled, verified
from reckoner.analysis.renumber import LeftOut
from reckoner.cli import main
from reckoner.cli.options import read_config
from reckoner.errors import InputError
from reckoner.runs.records import Problem, write_json
from reckoner.tasks import gsm8k
from reckoner.tasks.arithmetic import check_steps

CATS = Problem(
    "c",
    "Bob has 20 cats and gives 8 away. Each of the others eats 3 fish. How many fish?",
    "He keeps 20-8=<<20-8=12>>12 cats.\nThey eat 12*3=<<12*3=36>>36 fish.\n#### 36",
    "36",
    "main",
    "t",
)


def test_other_numbers_are_put_everywhere_and_recompute():
    for number in range(1, 6):
        made = renumbered(CATS, number, 0)
        assert made.id == f"c~renumber-{number}" and verified(made)
        first, second = check_steps(made.solution)
        twenty, eight = first.expression.split("-")
        assert made.question.startswith(f"Bob has {twenty} cats and gives {eight} away")
        assert second.expression == f"{first.written}*{second.expression.partition('*')[2]}"
        assert made.gold == second.written and made.question != CATS.question


@pytest.mark.parametrize(
    "solution", ["#### 36", "20-8=<<20-8=11>>11\n#### 11", "20-8=<<20-8=12>>12\n#### 36"]
)
def test_what_does_not_compute_has_no_relatives(solution):
    gold = solution.rpartition("#### ")[2]
    broken = Problem("b", CATS.question, solution, gold, "main", "t")
    with pytest.raises(LeftOut, match="steps that do not give|wrong or not annotated"):
        renumbered(broken, 1, 0)
    assert reversed_question(broken) is None


def test_a_reverse_question_undoes_the_steps():
    made = reversed_question(CATS)
    assert made is not None and made.gold == "20" and "Bob has x cats" in made.question
    assert made.question.endswith("If the answer to this question is 36, what is the value of x?")
    assert made.solution == "36/3=<<36/3=12>>12\n12+8=<<12+8=20>>20\n#### 20"


def test_a_subtrahend_and_a_divisor_are_undone_too():
    spent = Problem(
        "s", "She has 50 cards and gives 6 away.", "50-6=<<50-6=44>>44\n#### 44", "44", "main", "t"
    )
    other = Problem("s", "She has fifty cards and gives 6 away.", spent.solution, "44", "main", "t")
    assert reversed_question(spent).solution == "44+6=<<44+6=50>>50\n#### 50"
    assert reversed_question(other).solution == "50-44=<<50-44=6>>6\n#### 6"


@pytest.mark.parametrize("question", ["There are 20 pupils in grade 8.", "A third of 20 leave, and 8 stay."])
def test_a_number_whose_role_is_not_certain_is_not_asked_for(question):
    """Grade 8 and a third are not the numbers of the step; the other number is asked for, or none is."""
    solution = "20-8=<<20-8=12>>12\n12*3=<<12*3=36>>36\n#### 36"
    made = reversed_question(replace(CATS, question=question, solution=solution, gold="36"))
    assert made is None or made.gold == "20"


def test_a_number_used_twice_is_not_asked_for():
    twice = "8*8=<<8*8=64>>64\n#### 64"
    assert reversed_question(Problem("t", "A square of 8.", twice, "64", "main", "t")) is None
    again = "8+2=<<8+2=10>>10\n10*8=<<10*8=80>>80\n#### 80"
    made = reversed_question(Problem("t", "With 8 eggs and 2 more.", again, "80", "main", "t"))
    assert made is None or made.gold == "2"


def test_right_distinct_solutions_of_known_problems_are_sampled():
    right = "20-8=12=<<20-8=12>>12 and 3*12=<<3*12=36>>36\n#### 36"
    texts = [
        ("c", CATS.solution),
        ("c", "#### 35"),
        ("c", f" {right}"),
        ("c", right),
        ("x", right),
        ("c", "12*3=<<12*3=36>>36\n#### 36"),
    ]
    found = list(sampled([CATS], texts, 1))
    assert [(one.id, one.solution) for one in found] == [("c~sample-1", right)]
    assert len(list(sampled([CATS], texts, 5))) == 2


def test_embedded_problems_give_relatives_that_are_all_right():
    parents = nano.problems("train", "main")[:300]
    made, _ = augment(parents, ["renumber", "reverse"], 2, 0, set())
    kinds = [one.id.partition("~")[2].partition("-")[0] for one in made]
    assert kinds.count("renumber") > 60 and kinds.count("reverse") > 20
    assert all(verified(one) for one in made) and len({one.question for one in made}) == len(made)
    assert augment(parents, ["renumber"], 1, 0, {nano.question_hash(made[0].question)})[0][0] != made[0]


def test_a_question_with_two_solutions_is_one_parent():
    other = replace(CATS, id="c-2", solution="Of 20-8=<<20-8=12>>12, 3*12=<<3*12=36>>36.\n#### 36")
    again = "12*3=<<12*3=36>>36\n#### 36"
    made, _ = augment(
        [CATS, other], ["renumber", "sample"], 1, 0, set(), [("c-2", other.solution), ("c-2", again)]
    )
    assert [(one.id, one.question == CATS.question) for one in made] == [
        ("c~renumber-1", False),
        ("c~sample-1", True),
    ]
    assert count_kinds(made) == {"renumber": 1, "sample": 1}


def test_parents_that_were_made_or_have_other_answers_are_refused():
    with pytest.raises(InputError, match="c~renumber-1 was made of another one"):
        augment([replace(CATS, id="c~renumber-1")], ["reverse"], 1, 0, set())
    with pytest.raises(InputError, match="problem c: its answer is a choice; only numbers"):
        augment([replace(CATS, kind="choice", gold="A")], ["reverse"], 1, 0, set())


def test_only_ids_that_the_verb_makes_have_a_parent(tmp_path):
    """A tilde in an id of one's own means nothing, and an id may stand in train and in test."""
    rows = [{"id": f"{n}~b", "question": f"What is {n} + 1?", "answer": f"#### {n + 1}"} for n in range(13)]
    made = {"id": "{}~renumber-1", "question": "What is 40 + 1?", "answer": "#### 41"}
    test = [{**row, "question": f"And {row['question']}"} for row in rows]
    source = {"path": str(tmp_path), "dev_size": 4}
    for parent in (row["id"] for row in rows):
        train = [*rows, {**made, "id": f"{parent}~renumber-1"}]
        for name, some in (("train", train), ("test", test)):
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        held = {one.id for one in (*gsm8k.exemplars(**source), *gsm8k.load("dev", **source))}
        assert len(held) == 12
        assert len(gsm8k.load("train", **source)) == (1 if parent in held else 2)


def test_solutions_of_a_run_on_other_data_are_refused(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "rollouts").mkdir(parents=True)
    (run / "rollouts" / "step-000001.jsonl").write_text("")
    write_json(run / "inputs.json", {"data file other": "0" * 64})
    words = ["data", "augment", str(tmp_path / "new"), "--kind", "sample", "--run", str(run)]
    assert main(words) == 2
    assert "drew from other data than these settings read" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_dev_and_exemplars_stay_and_their_relatives_never_train(tmp_path, capsys):
    """The verb's folder has the dev of before; a relative of a dev problem in it is left out."""
    plain = {"dev_size": 50, "max_train_samples": 40, "max_test_samples": 5}
    settings = [f"data.{name}={value}" for name, value in plain.items()]
    settings += ["--kind", "renumber", "--kind", "reverse"]
    assert main(["data", "augment", str(tmp_path / "out"), *settings]) == 0
    shown = capsys.readouterr().out
    assert "renumber" in shown and "data.dev_size=50" in shown
    path = tmp_path / "out" / "train.jsonl"
    source = {"dev_size": 50, "path": str(tmp_path / "out")}
    for load in (
        gsm8k.exemplars,
        lambda **how: gsm8k.load("dev", **how),
        lambda **how: gsm8k.load("test", **how),
    ):
        assert [one.id for one in load(**plain)] == [one.id for one in load(**source)]
    before, after = gsm8k.load("train", **plain), gsm8k.load("train", **source)
    assert {one.id for one in before} < {one.id for one in after}
    assert all(one.category for one in after)
    row = json.loads(path.read_text().splitlines()[-1])
    assert row["parent"] == row["id"].partition("~")[0]
    held = gsm8k.load("dev", **source)[0]
    slipped = {"id": f"{held.id}~renumber-1", "question": "Another?", "answer": "#### 1"}
    path.write_text(path.read_text() + json.dumps(slipped) + "\n")
    assert slipped["id"] not in {one.id for one in gsm8k.load("train", **source)}
    test = gsm8k.load("test", **source)[0]
    slipped |= {"id": f"{test.id}~renumber-1", "question": "Third?"}
    path.write_text(path.read_text() + json.dumps(slipped) + "\n")
    with pytest.raises(InputError, match=r"made of a problem of .*test\.jsonl\. Take it out of train"):
        gsm8k.load("train", **source)


def test_the_printed_settings_read_all_that_was_made(tmp_path, capsys):
    """Under nano, which learns from 1,500 solutions, the made problems come on top; templates stay."""
    preset = ["--preset", "nano"]
    assert main(["data", "augment", str(tmp_path / "out"), "--kind", "renumber", *preset]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(line.removeprefix("settings that read it: "))
    before, after = (read_config("nano", None, own).problem_source() for own in ([], words))
    train = {one.id: one for one in gsm8k.load("train", **after)}
    parents = gsm8k.load("train", **before)
    made = [one for one in train.values() if one.id.endswith("~renumber-1")]
    assert len(parents) == 1500 and len(made) > 300 and len(train) == 1500 + len(made)
    assert all(train[one.id].template == one.template != "" for one in parents)
    assert [(one.id, one.template, one.unseen) for one in gsm8k.load("test", **before)] == [
        (one.id, one.template, one.unseen) for one in gsm8k.load("test", **after)
    ]
    assert sum(one.unseen for one in gsm8k.load("test", **after)) > 100


def test_the_printed_settings_read_the_folder_of_a_user_with_other_columns(tmp_path, capsys):
    rows = [
        {"problem": f"Bob has {n + 20} cats and gives {n} away. How many cats?", "gold": "20", "why": why}
        for n in range(2, 40)
        for why in [f"He keeps {n + 20}-{n}=<<{n + 20}-{n}=20>>20 cats."]
    ]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [f"data.path={tmp_path / 'own.jsonl'}", "data.question_field=problem", "data.solution_field=why"]
    own += ["data.gold_field=gold", "data.dev_size=5"]
    assert main(["data", "augment", str(tmp_path / "out"), "--kind", "renumber", *own]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("settings that read it: "))
    before, after = (
        gsm8k.load("train", **read_config("general", None, words).problem_source())
        for words in (own, [*own, *words])
    )
    assert {one.question for one in before} < {one.question for one in after}
    assert {one.gold for one in before} == {"20"} and all(verified(one) for one in after)


def test_words_that_do_not_fit_are_refused(tmp_path, capsys):
    for words, message in (
        (["--kind", "other"], "choose renumber, reverse, sample, paraphrase"),
        (["--kind", "sample"], "--kind sample and --run RUN belong together"),
        (["--kind", "paraphrase"], "--kind paraphrase and --model MODEL belong"),
        (["--kind", "reverse", "--model", "nano"], "--kind paraphrase and --model MODEL belong"),
        (
            ["--kind", "renumber", "--endpoint", "http://h/v1"],
            "--kind paraphrase and --model MODEL belong",
        ),
        (["--kind", "reverse"], "is there already; give a new folder"),
    ):
        folder = tmp_path if words == ["--kind", "reverse"] else tmp_path / "new"
        assert main(["data", "augment", str(folder), *words]) == 2
        assert message in capsys.readouterr().err
