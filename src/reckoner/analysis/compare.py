"""Which run won: accuracies with intervals, and paired tests on the items that the runs share.

Inputs named `ARM@0`, `ARM@1` are seeds of one arm and are averaged item by item. What would make a comparison unfair
(other items, other golds, another grader, another split) is refused, and what may differ (prompts, decoding) is noted.
A difference counts as found when Holm's p over the declared pairs is below alpha, never because of a ranking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis.power import detectable, detectable_mean, resolving_n, resolving_n_mean
from reckoner.analysis.readers import UNKNOWN, CompletionSet
from reckoner.analysis.statistics import (
    Difference,
    Interval,
    Sampled,
    average_seeds,
    cluster_bootstrap,
    holm,
    paired_difference,
    sampling_curve,
    wilson,
)
from reckoner.errors import InputError

Outcome = Literal["better", "worse", "unresolved"]


@dataclass(frozen=True, slots=True)
class SeedCounts:
    """One input on the shared items; counts are of completions, `correct` and `flexible` by the two readings."""

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

    `format_penalty` is flexible minus strict: right numbers that were not written after the marker. `std` is the
    standard deviation over seeds, None where one seed left it unmeasured. `low` and `high` are
    Wilson's at 95 %, over the choice of items. `sampling` holds pass@k and maj@k of one seed with several samples an item.
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


@dataclass(frozen=True, slots=True)
class Pair:
    """a against b on the same items; the difference is a minus b, `p_holm` is over all pairs of the comparison.

    `needs`, for an unresolved pair, is the number of items at which the difference seen would be found with 80 % power,
    `detectable` the smallest true difference that these n items find so, both at the first Holm step; None where
    there is none. `over_templates` is the interval of the difference over the choice of templates, where the problems
    were made from fewer templates than there are problems.
    """

    a: str
    b: str
    difference: Difference
    over_templates: Interval | None
    p_holm: float
    verdict: Outcome
    needs: int | None
    detectable: float | None


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


def compare(
    sources: Sequence[CompletionSet],
    pairs: Sequence[tuple[str, str]] = (),
    baseline: str = "",
    intersect: bool = False,
    alpha: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare the declared `pairs` of arms, or every arm with `baseline`, or, without either, all pairs.

    Raises `InputError` that says what differs where the sources cannot be compared; `intersect` drops the items that
    not all of them have. `seed` is used only where a test must sample (`statistics.sign_flip`).
    """
    arms = group_seeds(sources)
    notes: list[str] = []
    items = _shared_items(sources, intersect, notes)
    grader, split = _check_alike(sources, notes), _check_split(sources)
    _check_golds(sources, items)
    _check_prompts(arms, notes)
    _check_settings(sources, notes)
    scores = {
        name: average_seeds([_item_scores(member, items) for member in members])
        for name, members in arms.items()
    }
    templates = _templates(sources, items)
    family = _declared(list(arms), pairs, baseline)
    differences = [paired_difference(scores[a].items, scores[b].items, seed=seed) for a, b in family]
    adjusted = holm([difference.p for difference in differences])
    return Comparison(
        n=len(items),
        split=split,
        grader=grader,
        alpha=alpha,
        arms=tuple(
            _arm(name, members, items, scores[name].items, scores[name].std) for name, members in arms.items()
        ),
        pairs=tuple(
            _pair(
                a,
                b,
                difference,
                p,
                alpha,
                len(family),
                cluster_bootstrap(scores[a].items - scores[b].items, templates, seed) if templates else None,
            )
            for (a, b), difference, p in zip(family, differences, adjusted, strict=True)
        ),
        notes=tuple(notes),
    )


def group_seeds(sources: Sequence[CompletionSet]) -> dict[str, list[CompletionSet]]:
    """Sources by arm, in order: the name before `@` and a number, or the whole name. Raises for a name given twice."""
    arms: dict[str, list[CompletionSet]] = {}
    for source in sources:
        stem, at, number = source.name.rpartition("@")
        members = arms.setdefault(stem if at and number.isdigit() else source.name, [])
        if source.name in [member.name for member in members]:
            raise InputError(f"{source.name} is given twice")
        members.append(source)
    return arms


def parse_pair(text: str, sources: Sequence[CompletionSet]) -> tuple[str, str]:
    """`A:B` as two arm names; a colon inside a name does no harm. Raises `InputError`."""
    names = list(group_seeds(sources))
    found = [(a, b) for a in names for b in names if f"{a}:{b}" == text]
    if len(found) != 1:
        raise InputError(f"--pair {text}: write A:B with two of the inputs ({', '.join(names)})")
    return found[0]


def _shared_items(sources: Sequence[CompletionSet], intersect: bool, notes: list[str]) -> list[str]:
    """Problem ids that all sources hold, in the order of the first; refuses unequal sets unless `intersect`."""
    if not sources:
        raise InputError("nothing to compare: name at least one run or file")
    held = [dict.fromkeys(problem for problem, _ in source.grades) for source in sources]
    shared = [problem for problem in held[0] if all(problem in other for other in held)]
    first, sizes = (
        sources[0].name,
        ", ".join(f"{s.name} {len(h):,}" for s, h in zip(sources, held, strict=True)),
    )
    if not shared:
        raise InputError(f"no item is in all inputs ({sizes}): they are not runs on the same problems")
    if any(len(other) != len(shared) for other in held):
        if not intersect:
            odd = next(
                (s.name, p)
                for s, h in zip(sources, held, strict=True)
                for p in h
                if any(p not in o for o in held)
            )
            raise InputError(
                f"the items differ ({sizes}; only some have {odd[1]!r}, as {odd[0]}). Compare the {len(shared):,} they share with --intersect"
            )
        notes.append(f"Only the {len(shared):,} items that all inputs share are compared ({sizes}).")
    if len({len(source.grades) // len(h) for source, h in zip(sources, held, strict=True)}) > 1:
        notes.append(f"Samples an item differ; each input is averaged over its own (first: {first}).")
    return shared


def _check_alike(sources: Sequence[CompletionSet], notes: list[str]) -> str:
    known = {source.grader: source.name for source in sources if source.grader != UNKNOWN}
    if len(known) > 1:
        told = ", ".join(f"{name} by {grader}" for grader, name in known.items())
        raise InputError(
            f"the graders differ ({told}). Name the files of completions instead: they are graded again, all alike"
        )
    silent = [source.name for source in sources if source.grader == UNKNOWN]
    if silent:
        notes.append(f"The grader is not recorded for {', '.join(silent)}.")
    return next(iter(known), UNKNOWN)


def _check_split(sources: Sequence[CompletionSet]) -> str:
    splits = {source.split: source.name for source in sources if source.split}
    if len(splits) > 1:
        told = ", ".join(f"{name} on {split}" for split, name in splits.items())
        raise InputError(f"the splits differ ({told}). Choose one with --split")
    return next(iter(splits), "")


def _check_golds(sources: Sequence[CompletionSet], items: Iterable[str]) -> None:
    informed = [source for source in sources if source.problems]
    for item in items:
        golds = {source.problems[item].gold: source.name for source in informed}
        if len(golds) > 1:
            told = ", ".join(f"{gold} in {name}" for gold, name in golds.items())
            raise InputError(
                f"item {item!r} has different gold answers ({told}): these are not the same problems"
            )


def _check_prompts(arms: dict[str, list[CompletionSet]], notes: list[str]) -> None:
    for name, members in arms.items():
        hashes = frozenset().union(*(member.prompts for member in members))
        if len(hashes) > 1:
            raise InputError(
                f"{name} was prompted in {len(hashes)} ways ({', '.join(sorted(hashes))}): that is not one arm"
            )
    prompts = {name: next(iter(members[0].prompts)) for name, members in arms.items() if members[0].prompts}
    if len(set(prompts.values())) > 1:
        notes.append(
            f"Prompts differ: {', '.join(f'{name} {digest[:12]}' for name, digest in prompts.items())}."
        )


def _check_settings(sources: Sequence[CompletionSet], notes: list[str]) -> None:
    for key in ("max_new_tokens", "decoding"):
        values = {source.name: source.settings[key] for source in sources if key in source.settings}
        if len(set(values.values())) > 1:
            notes.append(f"{key} differs: {', '.join(f'{name} {value}' for name, value in values.items())}.")


def _item_scores(source: CompletionSet, items: Sequence[str]) -> NDArray[np.float64]:
    """Share of right samples of each item [n]; refuses items with more samples than others."""
    place = {item: index for index, item in enumerate(items)}
    right, samples = np.zeros(len(items)), np.zeros(len(items))
    for (problem, _), grade in source.grades.items():
        if problem in place:
            right[place[problem]] += grade.strict
            samples[place[problem]] += 1
    if samples.min() != samples.max():
        least, most = items[int(samples.argmin())], items[int(samples.argmax())]
        raise InputError(
            f"{source.name}: {least!r} has {samples.min():.0f} samples and {most!r} has {samples.max():.0f}. Each item needs as many"
        )
    return right / samples


def _templates(sources: Sequence[CompletionSet], items: Sequence[str]) -> list[str]:
    """The template of each item, where all have one and some share one; else an empty list."""
    problems = next((source.problems for source in sources if source.problems), {})
    templates = [problems[item].template for item in items] if problems else []
    return templates if all(templates) and 1 < len(set(templates)) < len(items) else []


def _sampling(members: Sequence[CompletionSet], items: Sequence[str]) -> tuple[Sampled, ...]:
    """pass@k and maj@k of an arm of one seed; right answers of one item are equal numbers, so they share one name."""
    answers: dict[str, list[str | None]] = {item: [] for item in items}
    for (problem, _), grade in members[0].grades.items():
        if problem in answers:
            answers[problem].append("right" if grade.strict else grade.strict_value)
    drawn = list(answers.values())
    return sampling_curve(drawn, "right") if len(members) == 1 and len(drawn[0]) > 1 else ()


def _declared(names: list[str], pairs: Sequence[tuple[str, str]], baseline: str) -> list[tuple[str, str]]:
    for name in [*(name for pair in pairs for name in pair), *([baseline] if baseline else [])]:
        if name not in names:
            raise InputError(f"no input is called {name!r} (inputs: {', '.join(names)})")
    if any(a == b for a, b in pairs):
        raise InputError("a pair needs two different arms")
    if pairs or baseline:
        against = [(name, baseline) for name in names if name != baseline] if baseline else []
        return list(dict.fromkeys([*pairs, *against]))
    return list(combinations(names, 2))


def _arm(
    name: str,
    members: Sequence[CompletionSet],
    items: Sequence[str],
    scores: NDArray[np.float64],
    std: float | None,
) -> ArmScore:
    kept = set(items)
    seeds = tuple(_tally(member, kept) for member in members)
    completions = sum(seed.completions for seed in seeds)
    share = {
        field: sum(getattr(seed, field) for seed in seeds) / completions
        for field in ("flexible", "no_answer", "truncated", "multi_marker")
    }
    accuracy = float(scores.mean())
    correct = sum(seed.correct for seed in seeds) * len(items) / completions
    low, high = wilson(correct, len(items))
    penalty, sampling = share["flexible"] - accuracy, _sampling(members, items)
    return ArmScore(
        name,
        len(items),
        correct,
        accuracy,
        low,
        high,
        format_penalty=penalty,
        std=std,
        seeds=seeds,
        sampling=sampling,
        **share,
    )


def _tally(source: CompletionSet, items: set[str]) -> SeedCounts:
    grades = [grade for (problem, _), grade in source.grades.items() if problem in items]
    return SeedCounts(
        name=source.name,
        completions=len(grades),
        correct=sum(grade.strict for grade in grades),
        flexible=sum(grade.flexible for grade in grades),
        no_answer=sum(grade.verdict == "no_answer" for grade in grades),
        truncated=sum(grade.verdict == "truncated" for grade in grades),
        multi_marker=sum(grade.markers > 1 for grade in grades),
    )


def _pair(
    a: str,
    b: str,
    difference: Difference,
    p_holm: float,
    alpha: float,
    family: int,
    over_templates: Interval | None,
) -> Pair:
    step, n, share = alpha / family, difference.n, difference.discordant / difference.n
    if difference.averaged:
        smallest: float | None = detectable_mean(n, difference.std, step)
        needs = resolving_n_mean(difference.estimate, difference.std, step)
    else:
        smallest, needs = detectable(n, share, step), resolving_n(difference.estimate, share, step)
    found = p_holm < alpha
    verdict: Outcome = "unresolved" if not found else "better" if difference.estimate > 0 else "worse"
    return Pair(a, b, difference, over_templates, p_holm, verdict, None if found else needs, smallest)
