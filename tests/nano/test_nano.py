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
    "train-main": "2a95e5cd815b61b0b6e5a7c1c0de6fbb4564889de4709b448712b9fbf17cce9f",
    "train-socratic": "4bdb8ab87428ef44972da89c31be8031cba392cac286d907c19e8a6364b26b17",
    "test-main": "cadcc0102415ce06ee50f0df24893d8951c17259fa31bba906321dd4104c1fa2",
    "test-socratic": "9f31463fa3903b2095c64ed9b5df142e992c20256087cfcff9a10fcd5670bc8a",
}
ANNOTATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>([-\d.]+)")


def digest(problems):
    return hashlib.sha256("\n".join(map(dumps, problems)).encode()).hexdigest()


def check_solution(problem, omit=False):
    """Form, exact annotations, and an answer that is the last result; with `omit`, the first of several
    lines may be missing.
    """
    *lines, last = problem.solution.split("\n")
    assert 1 <= problem.steps <= 6 and len(lines) in {problem.steps, max(1, problem.steps - omit)}
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
    assert {p.template for p in train} == set(nano.SEEN_TEMPLATES)
    assert {p.template for p in test if p.unseen} == set(nano.UNSEEN_TEMPLATES)
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
            check_solution(main, omit=split == "train")
            check_solution(socratic, omit=split == "train")
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


def test_some_solutions_of_train_omit_their_first_step_and_no_others():
    train = [p for p in nano.problems("train", "main") if p.steps > 1]
    assert abs(sum(map(omits_first_step, train)) / len(train) - nano.FIRST_STEP_OMITTED_RATE) < 0.02
    by_template = (
        Counter(p.template for p in train),
        Counter(p.template for p in train if omits_first_step(p)),
    )
    shares = [by_template[1][name] / n for name, n in by_template[0].items()]
    assert 0.1 < min(shares) < 0.25 and 0.5 < max(shares) < 0.72, (
        "templates differ, and none is always or never whole"
    )
    assert not any(map(omits_first_step, (*nano.problems("test", "main"), *nano.stream(500, 7, "main"))))
    whole, omitting = (
        list(nano.stream(500, 7, "main")),
        list(nano.stream(500, 7, "main", omit_first_steps=True)),
    )
    for one, other in zip(whole, omitting, strict=True):
        assert other == one or other == replace(one, solution=one.solution.partition("\n")[2])
    assert 130 < sum(map(omits_first_step, omitting)) < 220


def test_one_problem_is_as_documented():
    problem = next(p for p in nano.problems("train", "socratic") if p.template == "pay_one_thing")
    (price, bill) = sorted(
        set(numbers_in(problem.question)) & {int(n) for n in re.findall(r"\d+", problem.solution)}
    )
    assert (
        " ** " in problem.solution
        and f"{bill}-{price}=$<<{bill}-{price}={bill - price}>>{bill - price} back." in problem.solution
    )
    assert (
        problem.solution.endswith(f"\n#### {bill - price}")
        and problem.category == "change"
        and problem.steps == 1
    )


def test_the_distributions_hold_what_the_docstring_says():
    train = nano.problems("train", "main")
    steps = Counter(p.steps for p in train)
    assert set(steps) == {1, 2, 3, 4, 5, 6}
    assert 2.5 <= sum(p.steps for p in train) / len(train) <= 3.3
    assert not any(int(p.gold) in numbers_in(p.question) for p in train)
    negative = [p for p in train if int(p.gold) < 0]
    assert {p.category for p in negative} == {"below zero"} and 0.01 < len(negative) / len(train) < 0.05
    words = [len(p.question.split()) for p in train]
    assert 22 <= sum(words) / len(words) <= 35 and max(words) <= 70
    lines = [len(line.split()) for p in train for line in p.solution.split("\n")[:-1]]
    assert 4 <= sum(lines) / len(lines) <= 8 and max(lines) <= 16
    assert sum(bool(re.search(r"\d,\d{3}", p.question)) for p in train) > 100
    assert not any(re.search(r"\d{4}", p.question) or re.search(r"\d,\d{3}", p.solution) for p in train)
    worded = sum(
        bool(re.search(r"\b(two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b", p.question, re.I))
        for p in train
    )
    assert 0.1 < worded / len(train) < 0.3
    sizes = Counter(p.category for p in train)
    assert min(sizes.values()) > 250 and max(sizes.values()) < 800
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
    unseen = [name for name in nano.UNSEEN_TEMPLATES if nano.WORLD.templates[name].category == category]
    assert len(unseen) == 1, "each category keeps one template for the test"
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
        (lambda: nano.stream(5, 7, "main", category="ages", templates=["two_jobs"]), "no template is left"),
    ],
)
def test_bad_input_is_refused_before_the_first_problem(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.slow
def test_a_hundred_thousand_problems_are_exact():
    reserved = nano.reserved_hashes()
    for problem in nano.stream(100_000, 7, "main", templates=nano.TEMPLATES):
        check_solution(problem)
        assert nano.question_hash(problem.question) not in reserved
        assert int(problem.gold) not in numbers_in(problem.question)
