import hashlib
import itertools
import re
from collections import Counter
from dataclasses import replace

import pytest

from reckoner import nano
from reckoner.errors import InputError
from reckoner.nano.generator import numbers_in
from reckoner.runs.records import dumps
from reckoner.tasks.arithmetic import check_steps, evaluate, format_number

# The fixed sets may change only on purpose: every published number depends on them.
DIGESTS = {
    "train-main": "6fad2030e8b0776592ebd995c9ec7d924ba1523a412ec75bc7f81e5da191ff92",
    "train-socratic": "b368ba8b1a2fd8c534b98d36aa27369133981cd888d9754fa09d4eed7b1f9292",
    "test-main": "f26235834c62e8afa0c39658237a90e70c56ae31a46a513691a2b2762bf93a97",
    "test-socratic": "2a2b93fcfb7e8f607ac85f78ed4c44d74093301f747bbeddb473d01568b39bba",
}
ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>([-\d.]+)")


def digest(problems):
    return hashlib.sha256("\n".join(map(dumps, problems)).encode()).hexdigest()


def check_solution(problem):
    """Form, exact annotations, every step, and an answer that is the last result."""
    *lines, last = problem.solution.split("\n")
    assert 2 <= len(lines) == problem.steps <= 4
    results = []
    for line in lines:
        (match,) = ANNOTATION.finditer(line)
        expression, value, after = match.groups()
        assert format_number(evaluate(expression)) == value == after.rstrip("."), line
        assert line[: match.start()].endswith((f"{expression}=", f"{expression}=$")), line
        results.append(value)
    assert last == f"#### {problem.gold}" and problem.gold == results[-1]
    assert re.fullmatch(r"-?\d+", problem.gold)


@pytest.mark.parametrize("name", DIGESTS)
def test_the_fixed_sets_are_the_same_on_every_machine(name):
    assert digest(nano.problems(*name.split("-"))) == DIGESTS[name]


def test_sizes_ids_and_the_unseen_fifth():
    train, test = nano.problems("train", "main"), nano.problems("test", "main")
    assert (len(train), len(test)) == (7_473, 1_319)
    assert [p.id for p in train[:2]] == ["nano-train-00000", "nano-train-00001"] and test[
        -1
    ].id == "nano-test-01318"
    assert sum(p.unseen for p in test) == 264 and not any(p.unseen for p in train)
    used = {p.template for p in train}
    assert used <= set(nano.SEEN_TEMPLATES) and len(used) / len(nano.SEEN_TEMPLATES) > 0.99
    assert {p.template for p in test if p.unseen} <= set(nano.UNSEEN_TEMPLATES)
    assert {p.template for p in test if not p.unseen} <= set(nano.SEEN_TEMPLATES)
    assert 30 < sum(p.unseen for p in test[:264]) < 80, "the order of test should mix seen and unseen"


def test_no_question_occurs_twice_in_or_across_the_sets():
    questions = [nano.question_hash(p.question) for split in nano.SIZES for p in nano.problems(split, "main")]
    assert len(set(questions)) == len(questions) == 8_792
    assert nano.reserved_hashes() == frozenset(questions)


def test_question_hash_ignores_case_and_spacing_only():
    assert nano.question_hash("How  many\npens?") == nano.question_hash("how many pens? ")
    assert nano.question_hash("How many pens?") != nano.question_hash("How many hens?")
    assert nano.question_hash("a") == hashlib.sha256(b"a").hexdigest()


def test_main_and_socratic_agree_line_by_line():
    for split in nano.SIZES:
        for main, socratic in zip(
            nano.problems(split, "main"), nano.problems(split, "socratic"), strict=True
        ):
            check_solution(main)
            check_solution(socratic)
            *steps, last = socratic.solution.split("\n")
            asks, says = zip(*(line.split(" ** ") for line in steps), strict=True)
            assert "\n".join([*says, last]) == main.solution
            assert all(ask[0].isupper() and ask.endswith("?") for ask in asks)
            assert (
                main.id,
                main.question,
                main.gold,
                main.category,
                main.steps,
                main.template,
                main.unseen,
            ) == (
                (socratic.id, socratic.question, socratic.gold, socratic.category)
                + (socratic.steps, socratic.template, socratic.unseen)
            )
            assert (main.variant, socratic.variant, main.source) == ("main", "socratic", "nano")


def omits_first_step(problem):
    return problem.solution.count("\n") < problem.steps


@pytest.mark.parametrize("share", [0.15, 0.44])
def test_the_dial_omits_first_steps_of_train_and_changes_nothing_else(share):
    whole, dialled = nano.problems("train", "main"), nano.problems("train", "main", share)
    for one, other in zip(whole, dialled, strict=True):
        assert other == one or other == replace(one, solution=one.solution.partition("\n")[2])
    assert abs(sum(map(omits_first_step, dialled)) / len(dialled) - share) < 0.02
    socratic = nano.problems("train", "socratic", share)
    assert list(map(omits_first_step, socratic)) == list(map(omits_first_step, dialled))
    templates = Counter(p.template for p in dialled)
    omitted = Counter(p.template for p in dialled if omits_first_step(p))
    often = [omitted[name] / n for name, n in templates.items() if n > 12]
    assert max(often) - min(often) > 0.5 * share, "templates differ"
    assert nano.problems("test", "main", share) == nano.problems("test", "main")


def test_one_problem_is_as_documented():
    problem = next(p for p in nano.problems("train", "main") if p.template == "has-gives_part")
    part, rest, answer = problem.solution.split("\n")
    x, k, given = map(int, re.search(r"<<(\d+)/(\d)=(\d+)>>", part).groups())
    assert x in numbers_in(problem.question) and given * k == x and answer == f"#### {x - given}"
    assert f"So {x}-{given}=<<{x}-{given}={x - given}>>{x - given} " in rest
    assert (problem.category, problem.steps, problem.unseen) == ("things", 2, False)


def test_the_distributions_hold_what_the_docstring_says():
    train = nano.problems("train", "main")
    steps = Counter(p.steps for p in train)
    assert set(steps) == {2, 3, 4}
    assert 2.9 <= sum(p.steps for p in train) / len(train) <= 3.2
    assert not any(int(p.gold) in numbers_in(p.question) for p in train)
    negative = [p for p in train if int(p.gold) < 0]
    assert {p.category for p in negative} == {"below zero"} and 0.01 < len(negative) / len(train) < 0.05
    words = [len(p.question.split()) for p in train]
    assert 30 <= sum(words) / len(words) <= 38 and max(words) <= 80
    lines = [len(line.split()) for p in train for line in p.solution.split("\n")[:-1]]
    assert 4 <= sum(lines) / len(lines) <= 8 and max(lines) <= 16
    assert sum(bool(re.search(r"\d,\d{3}", p.question)) for p in train) > 10
    assert not any(re.search(r"\d{4}", p.question) or re.search(r"\d,\d{3}", p.solution) for p in train)
    worded = sum(
        bool(re.search(r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b", p.question, re.I))
        for p in train
    )
    assert 0.1 < worded / len(train) < 0.3
    sizes = Counter(p.category for p in train)
    assert min(sizes.values()) > 350 and max(sizes.values()) < 2600
    assert sum(abs(int(p.gold)) >= 1000 for p in train) / len(train) < 0.08


def test_stream_is_repeatable_apart_from_the_sets_and_open_ended():
    first = list(nano.stream(3_000, 7, "main"))
    assert list(nano.stream(40, 7, "main")) == first[:40]
    assert [p.question for p in nano.stream(40, 7, "socratic")] == [p.question for p in first[:40]]
    assert [p.question for p in nano.stream(40, 8, "main")] != [p.question for p in first[:40]]
    assert first[3].id == "nano-7-000003" and len({p.id for p in first}) == 3_000
    assert not {nano.question_hash(p.question) for p in first} & nano.reserved_hashes()
    assert not any(p.unseen for p in first)
    for problem in first:
        check_solution(problem)


def test_stream_really_skips_reserved_questions(monkeypatch):
    first = [nano.question_hash(p.question) for p in nano.stream(10, 7, "main")]
    monkeypatch.setattr(nano, "reserved_hashes", lambda: frozenset(first[2:5]))
    assert [nano.question_hash(p.question) for p in nano.stream(7, 7, "main")] == first[:2] + first[5:]


@pytest.mark.parametrize("category", nano.CATEGORIES)
def test_stream_keeps_to_a_category(category):
    assert {p.category for p in nano.stream(20, 1, "main", category=category)} == {category}
    unseen = [name for name in nano.UNSEEN_TEMPLATES if nano.category_of(name) == category]
    assert len(unseen) >= 3, "each category keeps templates for the test"
    assert all(p.unseen for p in nano.stream(3, 1, "main", category=category, templates=unseen))


def test_the_checker_of_solutions_agrees():
    for problem in itertools.islice(nano.stream(2_000, 3, "socratic", templates=nano.TEMPLATES), 2_000):
        steps = check_steps(problem.solution)
        assert len(steps) == problem.steps
        assert all(step.right and step.annotated for step in steps)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nano.problems("dev", "main"), "no split 'dev'"),
        (lambda: nano.problems("train", "short"), "no variant 'short'"),
        (lambda: nano.stream(0, 1, "main"), "positive integer, not 0"),
        (lambda: nano.stream(-3, 1, "main"), "positive integer, not -3"),
        (lambda: nano.stream(2.5, 1, "main"), "positive integer, not 2.5"),
        (lambda: nano.stream(True, 1, "main"), "positive integer, not True"),
        (lambda: nano.stream(5, "7", "main"), "seed must be an integer, not '7'"),
        (lambda: nano.stream(5, 7.0, "main"), "seed must be an integer, not 7.0"),
        (lambda: nano.stream(5, 7, "main", category="Rates"), "unknown category 'Rates'; the categories are"),
        (lambda: nano.stream(5, 7, "other"), "no variant 'other'"),
        (lambda: nano.stream(5, 7, "main", templates=["nope"]), "unknown template 'nope'"),
        (
            lambda: nano.stream(5, 7, "main", category="ages", templates=["works_hours-earns"]),
            "no template is left",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_problem(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_twenty_thousand_problems_are_exact():
    reserved = nano.reserved_hashes()
    for problem in nano.stream(20_000, 7, "main", templates=nano.TEMPLATES):
        check_solution(problem)
        assert nano.question_hash(problem.question) not in reserved
        assert int(problem.gold) not in numbers_in(problem.question)
