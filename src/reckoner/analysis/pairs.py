"""Pairs of runs for a reader: compared under both gradings, and in a sentence each.

`reckon compare` needs no more than this, and starts without what a study has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reckoner.analysis.compare import Comparison, CountPair, Pair, compare
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.seeds import ENOUGH
from reckoner.analysis.wording import about, called, p_value, points, span


def forgiven_grades(run: CompletionSet) -> CompletionSet:
    """The same completions with flexible grades in the place of the strict ones."""
    grades = {key: replace(grade, strict=grade.flexible) for key, grade in run.grades.items()}
    return replace(run, grades=grades)


def compare_both_ways(
    inputs: Sequence[CompletionSet],
    pairs: Sequence[tuple[str, str]] = (),
    baseline: str = "",
    intersect: bool = False,
) -> Comparison:
    """As `compare`, with a note for each pair whose verdict is another one with the format forgiven."""
    strict = compare(inputs, pairs, baseline, intersect)
    lenient = compare([forgiven_grades(one) for one in inputs], pairs, baseline, intersect)
    notes = [
        f"{a.a} against {a.b}: with the format forgiven the difference is {points(b.difference.estimate)} "
        f"points ({span(b.difference.low, b.difference.high)}; Holm p {p_value(b.p_holm)}), so that the "
        f"verdict is {called(b.verdict)} and not {called(a.verdict)}. Format may be what was learned."
        for a, b in zip(strict.pairs, lenient.pairs, strict=True)
        if a.verdict != b.verdict
    ]
    return replace(strict, notes=(*strict.notes, *notes))


def pair_sentence(pair: Pair | CountPair) -> str:
    """The result of one pair, for a reader who sees nothing else."""
    if isinstance(pair, CountPair):
        estimate, low, high, items = pair.estimate, pair.low, pair.high, "different items"
    else:
        gap = pair.difference
        estimate, low, high = gap.estimate, gap.low, gap.high
        items = f"{gap.n:,} shared item{'s' * (gap.n != 1)}"
    interval = f"95 % interval {span(low, high)}, {items}, Holm p {p_value(pair.p_holm)}"
    seen = f"{points(estimate)} points ({interval})"
    if pair.verdict != "unresolved":
        if isinstance(pair, Pair):
            return f"{ranked(pair, pair.a, pair.b)}: {seen}"
        return f"{pair.a} is {pair.verdict} than {pair.b}: {seen}"
    needs = f"; at this difference {would} would resolve it" if (would := would_tell(pair, "items")) else ""
    return f"{pair.a} and {pair.b} cannot be told apart at this n: {seen}{needs}"


def ranked(pair: Pair, a: str, b: str) -> str:
    """Who is better than whom: the methods where the test covers their seeds, else these runs of them."""
    if pair.difference.seeds >= ENOUGH:
        return f"{a} is {pair.verdict} than {b} over {pair.difference.seeds} seeds"
    return f"this run of {a} is {pair.verdict} than that of {b}"


def would_tell(pair: Pair | CountPair, items: str) -> str:
    """Example: `about 9,100 problems`, or `12 seeds`; empty where no number would."""
    if isinstance(pair, Pair) and pair.needs_seeds:
        return f"{pair.needs_seeds} seeds"
    return f"about {about(pair.needs)} {items}" if pair.needs else ""


def tested_as(pairs: Sequence[Pair]) -> str:
    """`method` where every pair covers the seeds, else `run`."""
    return "method" if pairs and all(pair.difference.seeds >= ENOUGH for pair in pairs) else "run"
