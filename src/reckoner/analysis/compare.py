"""Which run won: accuracies with intervals, and tests of the declared pairs.

Runs are paired on the items that they share. Inputs named `ARM@0`, `ARM@1` are seeds of one arm, averaged
item by item; those of one seed are paired where both arms have the same seeds. What would make a comparison
unfair (other items, golds, graders or splits) is refused, and what may differ (prompts, decoding) is noted.
Bare counts such as `31/100` cannot be paired: their tests are unpaired, and a percentage of n that no count
rounds to is named.

A difference counts as real when Holm's p over the declared pairs is below alpha, never because of a ranking.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import ceil, floor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis import power, seeds, statistics
from reckoner.analysis.intervals import Interval, newcombe, wilson
from reckoner.analysis.noise_floor import noise_notes
from reckoner.analysis.readers import UNKNOWN, CompletionSet
from reckoner.analysis.statistics import Difference, Sampled, holm
from reckoner.analysis.wording import at_budget
from reckoner.errors import InputError
from reckoner.runs.records import count_grades

Outcome = Literal["better", "worse", "unresolved"]
RATES = ("flexible", "no_answer", "truncated", "multi_marker")

_DIGITS = r"[0-9][0-9,]{0,15}"
_CLAIM = re.compile(
    rf"(?:(?P<name>[^=]+)=)?\s*(?:(?P<k>{_DIGITS})|(?P<percent>[0-9]{{1,3}}(?:\.[0-9]{{1,9}})?)\s*%)"
    rf"\s*(?:/|of)\s*(?P<n>{_DIGITS})\s*"
)


@dataclass(frozen=True, slots=True)
class SeedCounts:
    """Completions of one input on the shared items; `correct` is by the strict reading."""

    name: str
    completions: int
    correct: int
    flexible: int
    no_answer: int
    truncated: int
    multi_marker: int


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One arm on n items, all rates between 0 and 1. `correct` is a whole number for one seed and one sample.

    `format_penalty` is flexible minus strict: right numbers that were not written after the marker. `std` is
    the standard deviation over seeds, None for one seed. `low` and `high` are Wilson's at 95 %, over the
    choice of items, and from three seeds on over the seeds too. `sampling` holds pass@k and maj@k of one seed
    with several samples an item, and `errors` the standard errors of its accuracy: of the choice of items,
    and of drawing the samples.
    """

    name: str
    n: int
    correct: float
    accuracy: float
    low: float
    high: float
    flexible: float
    format_penalty: float
    no_answer: float
    truncated: float
    multi_marker: float
    std: float | None
    seeds: tuple[SeedCounts, ...]
    sampling: tuple[Sampled, ...]
    errors: Interval | None


@dataclass(frozen=True, slots=True)
class Pair:
    """a minus b on the same items; `p_holm` is over all pairs of the comparison.

    `needs`, for an unresolved pair, is the number of items at which the difference seen would be found with
    80 % power; where the interval covers seeds, `needs_seeds` is the number of runs of each arm that would.
    `detectable` is the smallest true difference that is found so as things are. All hold at the first Holm
    step, and are None where there is none. `over_templates` is the interval of the difference over the choice
    of templates, where the problems were made from fewer templates than there are problems.
    """

    a: str
    b: str
    difference: Difference
    over_templates: Interval | None
    p_holm: float
    verdict: Outcome
    needs: int | None
    detectable: float | None
    needs_seeds: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that `reckon compare` prints."""

    n: int
    split: str
    grader: str
    alpha: float
    arms: tuple[ArmScore, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claim:
    """`k` right of `n`, with Wilson's 95 % interval; `problem` says what is wrong with a percentage."""

    name: str
    k: int
    n: int
    low: float
    high: float
    problem: str


@dataclass(frozen=True, slots=True)
class CountPair:
    """a minus b on different items, with Newcombe's interval, Fisher's p and, on request, Barnard's.

    `needs` and `detectable` are as in `Pair`, for each of two separate samples.
    """

    a: str
    b: str
    estimate: float
    low: float
    high: float
    fisher: float
    barnard: float | None
    p_holm: float
    verdict: Outcome
    needs: int | None
    detectable: float | None


@dataclass(frozen=True, slots=True)
class CountComparison:
    """What `reckon compare --counts` prints; `paired` is always False."""

    claims: tuple[Claim, ...]
    pairs: tuple[CountPair, ...]
    notes: tuple[str, ...]
    paired: bool = False


def compare(
    inputs: Sequence[CompletionSet],
    pairs: Sequence[tuple[str, str]] = (),
    baseline: str = "",
    intersect: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare the declared `pairs` of arms, or every arm with `baseline`, or, without either, all pairs.

    Raises `InputError` that says what differs where the inputs cannot be compared; `intersect` drops the
    items that not all of them have. `seed` is used only where a test must sample (`statistics.sign_flip`).
    """
    arms = group_seeds(inputs)
    notes: list[str] = []
    items = _shared_items(inputs, intersect, notes)
    grader, split = check_alike(inputs, items)
    if silent := [one.name for one in inputs if one.grader == UNKNOWN]:
        notes.append(f"The grader is not recorded for {', '.join(silent)}.")
    _check_prompts(arms, notes)
    for key in ("max_new_tokens", "decoding"):
        values = {one.name: str(one.settings[key]) for one in inputs if key in one.settings}
        _note_differences(f"{key} differs", values, notes)
    spent = {one.name: one.settings["operations"] for one in inputs if "operations" in one.settings}
    if len(spent) > 1 and at_budget(max(spent.values()) / min(spent.values())):
        counts = ", ".join(f"{name} {flops:.2g}" for name, flops in spent.items())
        notes.append(f"Training took unequal operations, without what each run started from: {counts}.")
    scores = {
        name: statistics.average_seeds([_item_scores(member, items) for member in members])
        for name, members in arms.items()
    }
    templates = _templates(inputs, items)
    family = _declared(list(arms), pairs, baseline)
    differences = []
    for a, b in family:
        rows, same = seeds.by_seed(arms[a], arms[b])
        differences.append(
            seeds.seed_difference(scores[a].grid[rows[0]], scores[b].grid[rows[1]], same, seed=seed)
        )
        if not same:
            notes.append(_unpaired_note(arms, a, b))
    tested = _outcomes([one.estimate for one in differences], [one.p for one in differences], alpha)
    paired = []
    for (a, b), difference, (p_holm, outcome) in zip(family, differences, tested, strict=True):
        gaps = scores[a].items - scores[b].items
        over_templates = statistics.cluster_bootstrap(gaps, templates, seed) if templates else None
        needs, more, smallest = _resolution(difference, alpha / len(family))
        if outcome != "unresolved":
            needs = more = None
        paired.append(Pair(a, b, difference, over_templates, p_holm, outcome, needs, smallest, more))
    notes += noise_notes(arms, {(pair.a, pair.b): pair.difference.estimate for pair in paired})
    measured = tuple(_arm(name, arms[name], items, scores[name]) for name in arms)
    return Comparison(len(items), split, grader, alpha, measured, tuple(paired), tuple(notes))


def compare_counts(texts: Sequence[str], with_barnard: bool = False, alpha: float = 0.05) -> CountComparison:
    """`compare_claims` of texts such as `31/100`; raises `InputError` for a text that is no claim."""
    if not texts:
        raise InputError("nothing to compare: give counts such as 31/100 20/100")
    return compare_claims([parse_claim(text) for text in texts], with_barnard, alpha)


def compare_claims(
    claims: Sequence[Claim], with_barnard: bool = False, alpha: float = 0.05
) -> CountComparison:
    """Test all pairs of claims, with Holm over Fisher's p; raises `InputError` where two have one name.

    Which items were right is not known, so nothing is paired and these tests see less than `compare` would.
    """
    if repeated := [name for name, uses in Counter(claim.name for claim in claims).items() if uses > 1]:
        raise InputError(f"{repeated[0]!r} is given twice. Name the counts, as base=31/100 tuned=31/100")
    family = list(combinations(claims, 2))
    p_values = [statistics.fisher(a.k, a.n, b.k, b.n) for a, b in family]
    tested = _outcomes([a.k / a.n - b.k / b.n for a, b in family], p_values, alpha)
    pairs = []
    for (a, b), p, (p_holm, outcome) in zip(family, p_values, tested, strict=True):
        share_a, share_b, step = a.k / a.n, b.k / b.n, alpha / len(family)
        pairs.append(
            CountPair(
                a.name,
                b.name,
                share_a - share_b,
                *newcombe(a.k, a.n, b.k, b.n),
                fisher=p,
                barnard=statistics.barnard(a.k, a.n, b.k, b.n) if with_barnard else None,
                p_holm=p_holm,
                verdict=outcome,
                needs=power.resolving_n_unpaired(share_a, share_b, step) if outcome == "unresolved" else None,
                detectable=power.detectable_unpaired(a.n, b.n, min(share_a, share_b), step),
            )
        )
    notes = [f"{claim.name}: {claim.problem}" for claim in claims if claim.problem]
    if pairs:
        notes.append(
            "Unpaired: which items were right is not known, "
            "so these tests see less than a comparison of runs would."
        )
    return CountComparison(tuple(claims), tuple(pairs), tuple(notes))


def _outcomes(
    estimates: Sequence[float], p_values: Sequence[float], alpha: float
) -> list[tuple[float, Outcome]]:
    """Holm's p of each difference of one family, and what it says about the first of the two."""
    outcomes: list[tuple[float, Outcome]] = []
    for estimate, p_holm in zip(estimates, holm(p_values), strict=True):
        outcomes.append((p_holm, "unresolved" if p_holm >= alpha else "better" if estimate > 0 else "worse"))
    return outcomes


def _resolution(difference: Difference, step: float) -> tuple[int | None, int | None, float | None]:
    """How many items or seeds would resolve a paired difference, and the smallest that there are resolve."""
    n, estimate = difference.n, difference.estimate
    if isinstance(difference, seeds.SeedDifference):
        more = seeds.resolving_seeds(estimate, difference.noise, step)
        return None, more, seeds.detectable_seeds(difference.noise, step)
    if difference.averaged:
        std = difference.std
        return power.resolving_n_mean(estimate, std, step), None, power.detectable_mean(n, std, step)
    share = difference.discordant / n
    return power.resolving_n(estimate, share, step), None, power.detectable(n, share, step)


def group_seeds(inputs: Sequence[CompletionSet]) -> dict[str, list[CompletionSet]]:
    """Inputs by arm, in order: the name before `@` and a number, or the whole name. Refuses equal names."""
    arms: dict[str, list[CompletionSet]] = {}
    for one in inputs:
        members = arms.setdefault(seeds.arm_name(one.name), [])
        if one.name in [member.name for member in members]:
            raise InputError(f"{one.name} is given twice")
        members.append(one)
    return arms


def parse_pair(text: str, inputs: Sequence[CompletionSet]) -> tuple[str, str]:
    """`A:B` as two arm names; a colon inside a name does no harm. Raises `InputError`."""
    names = list(group_seeds(inputs))
    fitting = [(a, b) for a in names for b in names if f"{a}:{b}" == text]
    if len(fitting) != 1:
        raise InputError(f"--pair {text}: write A:B with two of the inputs ({', '.join(names)})")
    return fitting[0]


def _declared(names: list[str], pairs: Sequence[tuple[str, str]], baseline: str) -> list[tuple[str, str]]:
    for name in [*(name for pair in pairs for name in pair), *([baseline] if baseline else [])]:
        if name not in names:
            raise InputError(f"no input is called {name!r} (inputs: {', '.join(names)})")
    if any(a == b for a, b in pairs):
        raise InputError("a pair needs two different arms")
    if not (pairs or baseline):
        return list(combinations(names, 2))
    against = [(name, baseline) for name in names if name != baseline] if baseline else []
    return list(dict.fromkeys([*pairs, *against]))


def _shared_items(inputs: Sequence[CompletionSet], intersect: bool, notes: list[str]) -> list[str]:
    """Problem ids that all inputs hold, in the first's order; refuses unequal sets unless `intersect`."""
    if not inputs:
        raise InputError("nothing to compare: name at least one run or file")
    held = {one.name: dict.fromkeys(problem for problem, _ in one.grades) for one in inputs}
    shared = [problem for problem in held[inputs[0].name] if all(problem in other for other in held.values())]
    common = frozenset(shared)
    sizes = ", ".join(f"{name} {len(problems):,}" for name, problems in held.items())
    if not shared:
        raise InputError(f"no item is in all inputs ({sizes}): they are not runs on the same problems")
    odd = next(((name, item) for name in held for item in held[name] if item not in common), None)
    if odd and not intersect:
        raise InputError(
            f"the items differ ({sizes}; only some have {odd[1]!r}, as {odd[0]}). "
            f"Compare the {len(shared):,} they share with --intersect"
        )
    if odd:
        notes.append(f"Only the {len(shared):,} items that all inputs share are compared ({sizes}).")
    if len({len(one.grades) // len(held[one.name]) for one in inputs}) > 1:
        notes.append(
            f"Samples an item differ; each input is averaged over its own (first: {inputs[0].name})."
        )
    return shared


def check_alike(inputs: Sequence[CompletionSet], items: Iterable[str]) -> tuple[str, str]:
    """The grader and the split of all inputs; refuses several of either, and several golds of one item."""
    graders = {one.name: one.grader for one in inputs if one.grader != UNKNOWN}
    remedy = "Name the files of completions instead: they are graded again, all alike"
    grader = _agreed(graders, "the graders differ", remedy) or UNKNOWN
    split = _agreed({one.name: one.split for one in inputs}, "the splits differ", "Choose one with --split")
    informed = [one for one in inputs if one.problems]
    for item in items:
        golds = {one.name: one.problems[item].gold for one in informed}
        _agreed(golds, f"item {item!r} has different gold answers", "These are not the same problems")
    return grader, split


def _agreed(values: Mapping[str, str], what: str, remedy: str) -> str:
    """The one value of all inputs that have one, by the name of the input, or ''; refuses several."""
    names = {value: name for name, value in values.items() if value}
    if len(names) > 1:
        listed = ", ".join(f"{name}: {value}" for value, name in names.items())
        raise InputError(f"{what} ({listed}). {remedy}")
    return next(iter(names), "")


def _check_prompts(arms: Mapping[str, Sequence[CompletionSet]], notes: list[str]) -> None:
    for name, members in arms.items():
        hashes = frozenset().union(*(member.prompts for member in members))
        if len(hashes) > 1:
            listed = ", ".join(sorted(hashes))
            raise InputError(f"{name} was prompted in {len(hashes)} ways ({listed}): that is not one arm")
    prompts = {name: next(iter(members[0].prompts)) for name, members in arms.items() if members[0].prompts}
    _note_differences("Prompts differ", prompts, notes, shown=12)


def _note_differences(
    what: str, values: Mapping[str, str], notes: list[str], shown: int | None = None
) -> None:
    if len(set(values.values())) > 1:
        notes.append(f"{what}: {', '.join(f'{name} {value[:shown]}' for name, value in values.items())}.")


def _unpaired_note(arms: Mapping[str, Sequence[CompletionSet]], a: str, b: str) -> str:
    held = [", ".join(one.name for one in arms[name]) for name in (a, b)]
    return (
        f"{a} and {b} do not have the same seeds: all runs count, and none is paired with another "
        f"({held[0]}; {held[1]})."
    )


def _item_scores(one: CompletionSet, items: Sequence[str]) -> NDArray[np.float64]:
    """Share of right samples of each item [n]; refuses items with more samples than others."""
    shares, samples = one.shares(), Counter(problem for problem, _ in one.grades)
    least, most = min(items, key=samples.__getitem__), max(items, key=samples.__getitem__)
    if samples[least] != samples[most]:
        raise InputError(
            f"{one.name}: {least!r} has {samples[least]} samples and {most!r} has {samples[most]}. "
            "Each item needs as many"
        )
    return np.array([shares[item] for item in items])


def _templates(inputs: Sequence[CompletionSet], items: Sequence[str]) -> list[str]:
    """The template of each item, where all have one and some share one; else an empty list."""
    problems = next((one.problems for one in inputs if one.problems), {})
    templates = [problems[item].template for item in items] if problems else []
    return templates if all(templates) and 1 < len(set(templates)) < len(items) else []


def _arm(
    name: str, members: Sequence[CompletionSet], items: Sequence[str], scores: statistics.SeedAverage
) -> ArmScore:
    kept = set(items)
    counts = tuple(_count(member, kept) for member in members)
    completions = sum(count.completions for count in counts)
    rates = {rate: sum(getattr(count, rate) for count in counts) / completions for rate in RATES}
    accuracy = float(scores.items.mean())
    correct = sum(count.correct for count in counts) * len(items) / completions
    low, high = seeds.accuracy_interval(scores.grid)
    return ArmScore(
        name,
        len(items),
        correct,
        accuracy,
        low,
        high,
        format_penalty=rates["flexible"] - accuracy,
        std=scores.std,
        seeds=counts,
        **_sampling(members, items),
        **rates,
    )


def _count(one: CompletionSet, items: set[str]) -> SeedCounts:
    counts = count_grades(grade for (problem, _), grade in one.grades.items() if problem in items)
    counts.pop("f1", None)  # of spans the exact matches are compared
    return SeedCounts(one.name, completions=counts.pop("n"), correct=counts.pop("strict"), **counts)


def _sampling(members: Sequence[CompletionSet], items: Sequence[str]) -> dict[str, Any]:
    """`sampling` and `errors` of one run. Right answers of one item are equal: they share a name."""
    answers: dict[str, list[str | None]] = {item: [] for item in items}
    for (problem, _), grade in members[0].grades.items():
        if problem in answers:
            answers[problem].append("right" if grade.strict else grade.strict_value)
    drawn = list(answers.values())
    if len(members) > 1 or len(drawn[0]) < 2:
        return {"sampling": (), "errors": None}
    right = [[one == "right" for one in own] for own in drawn]
    return {
        "sampling": statistics.sampling_curve(drawn, "right"),
        "errors": statistics.sampling_errors(right) if len(right) > 1 else None,
    }


def is_claim(text: str) -> bool:
    """Whether `text` is written as a count: 31/100, 28.1%/256, name=31/100."""
    return _CLAIM.fullmatch(text) is not None


def parse_claim(text: str) -> Claim:
    """Read `31/100`, `31.0%/256`, `31.0%of256` or `NAME=31/100`; raises `InputError` for anything else."""
    match = _CLAIM.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not a count. Write right/all, as 31/100, or a percentage, as 31.0%/256"
        )
    n, name, problem = int(match["n"].replace(",", "")), (match["name"] or text).strip(), ""
    if n == 0:
        raise InputError(f"{text!r}: of no problems there is no accuracy. Leave it out")
    if match["percent"]:
        k, problem = _from_percent(name, match["percent"], n)
    else:
        k = int(match["k"].replace(",", ""))
    if k > n:
        raise InputError(f"{text!r}: {k:,} right of {n:,} is impossible")
    return Claim(name, k, n, *wilson(k, n), problem)


def _from_percent(name: str, stated: str, n: int) -> tuple[int, str]:
    """The k nearest to a percentage of n, and what is wrong where no k rounds to it, or several do."""
    value = Fraction(stated)
    if value > 100:
        raise InputError(f"{name}: {stated} % is more than all")
    decimals = len(stated.partition(".")[2])
    half = Fraction(1, 2 * 10**decimals)
    lowest, highest = ceil((value - half) * n / 100), floor((value + half) * n / 100)
    nearest = min(n, floor(value * n / 100 + Fraction(1, 2)))
    if lowest > highest:
        below = floor(value * n / 100)
        around = (f"{k}/{n} is {100 * k / n:.{decimals + 1}f} %" for k in (below, below + 1) if k <= n)
        impossible = f"{stated} % of {n} is impossible: {' and '.join(around)}."
        return nearest, f"{impossible} The nearest, {nearest}/{n}, is used."
    if highest > lowest:
        possible = f"{max(0, lowest)} to {min(n, highest)}"
        return nearest, f"{stated} % of {n} may be {possible} right; {nearest} is used."
    return nearest, ""
