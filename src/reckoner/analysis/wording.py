"""How results are said: the same words and digits in the terminal, the report and the documents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from math import ceil, log10
from typing import TYPE_CHECKING

from reckoner.analysis.compare import ArmScore, Comparison, CountComparison, CountPair, Pair
from reckoner.analysis.mistakes import KINDS

if TYPE_CHECKING:
    from reckoner.analysis.changes import Change, Diff, Side
    from reckoner.analysis.mistakes import Profile

Table = tuple[list[str], list[list[str]]]
"""Headers and rows, for `console.table`."""


def percent(share: float) -> str:
    """`39.0 %`"""
    return f"{100 * share:.1f} %"


def span(low: float, high: float) -> str:
    """An interval of shares in per cent: `36.4-41.7`; with signs and "to" where it reaches below zero."""
    if low < 0:
        return f"{100 * low:+.1f} to {100 * high:+.1f}"
    return f"{100 * low:.1f}-{100 * high:.1f}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points: `+4.3`"""
    return f"{100 * difference:+.1f}"


def p_value(p: float) -> str:
    """Two significant digits or more, never a bare zero: `0.56`, `0.0032`, `1.2e-07`, `<1e-99`."""
    if p < 1e-99:
        return "<1e-99"
    return f"{p:.1e}" if p < 1e-4 else f"{p:.4f}" if p < 0.01 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def about(n: int) -> str:
    """A planned number of items, rounded up to two digits: `9,100`."""
    step = 10 ** max(0, int(log10(n)) - 1)
    return f"{ceil(n / step) * step:,}"


def count(k: float) -> str:
    """Whole where it is whole: `515`, and `512.3` for an average over seeds."""
    return f"{k:,.0f}" if k == int(k) else f"{k:,.1f}"


def verdict(pair: Pair | CountPair) -> str:
    """The result of one pair in words, for a reader who sees nothing else."""
    if isinstance(pair, CountPair):
        estimate, low, high, items = pair.estimate, pair.low, pair.high, "different items"
    else:
        difference = pair.difference
        estimate, low, high, items = (
            difference.estimate,
            difference.low,
            difference.high,
            f"{difference.n:,} shared items",
        )
    seen = (
        f"{points(estimate)} points (95 % interval {span(low, high)}, {items}, Holm p {p_value(pair.p_holm)})"
    )
    if pair.verdict != "unresolved":
        return f"{pair.a} is {pair.verdict} than {pair.b}: {seen}"
    needs = f"; at this difference about {about(pair.needs)} items would resolve it" if pair.needs else ""
    return f"{pair.a} and {pair.b} cannot be told apart at this n: {seen}{needs}"


def outcome(pair: Pair) -> str:
    """One word or three for a table."""
    return "not told apart" if pair.verdict == "unresolved" else pair.verdict


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from one hour on."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def amount(count: float) -> str:
    """A number of tokens, to two digits: "1.8 M"."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"


def both(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def arm_table(comparison: Comparison) -> Table:
    """One row an arm; a second column of seeds where an arm has several."""
    seeded = any(len(arm.seeds) > 1 for arm in comparison.arms)
    headers = [
        "arm",
        "right",
        "accuracy",
        "95 % interval",
        "flexible",
        "format penalty",
        "no answer",
        "truncated",
    ]
    return headers + ["each seed", "sd of seeds"] * seeded, [_arm_row(arm, seeded) for arm in comparison.arms]


def _arm_row(arm: ArmScore, seeded: bool) -> list[str]:
    row = [
        arm.name,
        f"{count(arm.correct)}/{arm.n:,}",
        percent(arm.accuracy),
        span(arm.low, arm.high),
        percent(arm.flexible),
        points(arm.format_penalty),
        percent(arm.no_answer),
        percent(arm.truncated),
    ]
    if seeded:
        row.append(" ".join(f"{100 * seed.correct / seed.completions:.1f}" for seed in arm.seeds))
        row.append("one seed" if arm.std is None else f"{100 * arm.std:.1f}")
    return row


def sampling_table(comparison: Comparison) -> Table:
    """pass@k and maj@k of the arms with several samples an item; no rows without one."""
    sampled = [arm for arm in comparison.arms if arm.sampling]
    return ["arm", "k", "pass@k", "maj@k"], [
        [arm.name, str(one.k), percent(one.passed), percent(one.voted)]
        for arm in sampled
        for one in arm.sampling
    ]


def pair_table(comparison: Comparison) -> Table:
    """One row a pair, paired tests; a second interval where problems share templates."""
    templates = any(pair.over_templates for pair in comparison.pairs)
    headers = [
        "pair",
        "difference",
        "95 % interval",
        *["over templates"] * templates,
        "fixed",
        "broken",
        "p",
        "Holm p",
        "verdict",
        "n to resolve",
        "smallest visible",
    ]
    rows = [
        [
            f"{pair.a} - {pair.b}",
            points(pair.difference.estimate),
            span(pair.difference.low, pair.difference.high),
            *([span(*pair.over_templates)] if pair.over_templates else []),
            str(pair.difference.fixed),
            str(pair.difference.broken),
            p_value(pair.difference.p),
            p_value(pair.p_holm),
            _short(pair),
            about(pair.needs) if pair.needs else "",
            points(pair.detectable).lstrip("+") if pair.detectable else "",
        ]
        for pair in comparison.pairs
    ]
    return headers, rows


def count_tables(comparison: CountComparison) -> tuple[Table, Table]:
    """The claims and their pairs, unpaired tests."""
    claims = [
        [c.name, f"{c.k:,}/{c.n:,}", percent(c.k / c.n), span(c.low, c.high)] for c in comparison.claims
    ]
    barnard = any(pair.barnard is not None for pair in comparison.pairs)
    headers = [
        "pair",
        "difference",
        "95 % interval",
        "Fisher p",
        *["Barnard p"] * barnard,
        "Holm p",
        "verdict",
        "n each to resolve",
        "smallest visible",
    ]
    rows = [
        [
            f"{pair.a} - {pair.b}",
            points(pair.estimate),
            span(pair.low, pair.high),
            p_value(pair.fisher),
            *([p_value(pair.barnard)] if pair.barnard is not None else []),
            p_value(pair.p_holm),
            _short(pair),
            about(pair.needs) if pair.needs else "",
            points(pair.detectable).lstrip("+") if pair.detectable else "",
        ]
        for pair in comparison.pairs
    ]
    return (["claim", "right", "accuracy", "95 % interval"], claims), (headers, rows)


def profile_sentence(profile: Profile) -> str:
    """What a run got wrong, in one line."""
    return (
        f"{profile.name}: {profile.wrong:,} of {profile.n:,} completions are wrong; "
        f"{profile.slips:,} hold a false calculation, {profile.lucky:,} of them right all the same"
    )


def kind_table(profile: Profile) -> Table:
    """Kinds of error, the most frequent first."""
    rows = [
        [kind.title, f"{kind.count:,}", percent(kind.share), span(kind.low, kind.high), kind.definition]
        for kind in profile.kinds
    ]
    return ["kind", "count", "share of errors", "95 % interval", "definition"], rows


def group_table(profile: Profile, grouping: str) -> Table:
    """The groups of one grouping, each with its two most frequent kinds."""
    rows = [
        [
            group.label,
            f"{group.wrong:,}/{group.n:,}",
            percent(group.wrong / group.n),
            span(group.low, group.high),
            ", ".join(f"{KINDS[kind].title} {number:,}" for kind, number in list(group.kinds.items())[:2]),
        ]
        for group in profile.groups[grouping]
    ]
    return [grouping, "wrong", "share", "95 % interval", "mostly"], rows


def diff_sentence(found: Diff) -> str:
    """What changed from one run to the other, in one line."""
    return (
        f"{found.b} fixed {len(found.fixed):,} and broke {len(found.broken):,} of {found.n:,} problems of {found.a}; "
        f"both solve {found.both_right:,}, neither {found.both_wrong:,}"
    )


def side_table(found: Diff, change: Change) -> Table:
    """Both texts of one problem side by side, line by line."""
    headers = [f"{found.a}: {_judged(change.a)}", f"{found.b}: {_judged(change.b)}"]
    return headers, [
        list(lines)
        for lines in zip_longest(change.a.text.split("\n"), change.b.text.split("\n"), fillvalue="")
    ]


def parting(found: Diff, change: Change) -> str:
    """Where the two texts part, in one line."""
    if change.parting is None:
        return "their calculations are the same"
    a, b = change.parting.a or "has ended", change.parting.b or "has ended"
    return f"they part at {change.parting.unit} {change.parting.place}: {found.a} {a} | {found.b} {b}"


def _judged(side: Side) -> str:
    return f"{KINDS[side.kind].title}, {side.detail}" if side.kind else "right"


def _short(pair: Pair | CountPair) -> str:
    return "cannot be resolved at this n" if pair.verdict == "unresolved" else pair.verdict
