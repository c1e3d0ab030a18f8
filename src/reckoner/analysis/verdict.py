"""What a study found and what it cannot say, in sentences.

A ranking is stated only where a declared test found a difference; the rest is listed as not told apart, with the number
of problems that would tell.
"""

from __future__ import annotations

from collections.abc import Sequence

from reckoner.analysis import wording
from reckoner.analysis.canvas import sentence
from reckoner.analysis.changes import Gain, format_rate, gains
from reckoner.analysis.compare import Pair
from reckoner.analysis.findings import Findings, Result, lost
from reckoner.analysis.mistakes import KINDS

NOTABLE = 0.05
"""Share of the answers from which a truncated or unmarked rest is said in words."""


def verdict(found: Findings) -> list[str]:
    """A headline, and a few sentences: how sure that is, what the declared tests found, and what cannot be told apart."""
    if not found.results:
        return ["No arm has a test result yet."]
    told = gains(found)
    said = (
        _headline(found),
        _sure(found),
        _against_baseline(found),
        _format_only(found),
        *_rewarded(told),
        _between_arms(found, told),
    )
    return [sentence(line) for line in said if line]


def _best(found: Findings) -> list[Result]:
    """The arms that solved the most."""
    most = max(result.score.accuracy for result in found.results)
    return [result for result in found.results if result.score.accuracy == most]


def _headline(found: Findings) -> str:
    """What won and by how much, in one line."""
    best, base = _best(found), found.baseline
    names, share = wording.both([result.title for result in best]), wording.percent(best[0].score.accuracy)
    solves = "solves" if len(best) == 1 else "solve"
    if not best[0].score.correct:
        return f"No arm solved any of the {found.n:,} test problems."
    if base is None or base in best or not found.tested:
        return f"{names} {solves} the most: {share} of {found.n:,} test problems."
    rest = f"the best prompt {wording.percent(base.score.accuracy)}"
    if all(result.pair is not None and result.pair.verdict == "better" for result in best):
        return f"{names} {solves} {share} of the test problems, {rest}."
    return f"{names} {solves} the most, {share}, but cannot be told apart from {rest}."


def _sure(found: Findings) -> str:
    """The count behind the headline with its interval, and the test behind it."""
    best = _best(found)[0]
    score, pair = best.score, best.pair
    if not score.correct:
        return f"The 95 % interval reaches up to {wording.percent(score.high)}."
    solved = f"that is {wording.count(score.correct)} of {score.n:,} (95 % interval {wording.span(score.low, score.high)} %)"
    if pair is None or found.baseline is None:
        return f"{solved}."
    gap = pair.difference
    return f"{solved}, {wording.points(gap.estimate)} points on {found.baseline.title} ({wording.span(gap.low, gap.high)}; Holm p {wording.p_value(pair.p_holm)})."


def _against_baseline(found: Findings) -> str:
    base, tested = found.baseline, found.tested
    if base is None or not tested:
        return ""
    named = f"the best prompt ({base.title}, {wording.percent(base.score.accuracy)})"
    better, worse, unclear = (
        [pair for pair in tested if pair.verdict == kind] for kind in ("better", "worse", "unresolved")
    )
    many, arms = len(tested), "trained arm" if len(tested) == 1 else "trained arms"
    if len(unclear) == many:
        return f"{'the' if many == 1 else f'none of the {many}'} {arms} can{'not' if many == 1 else ''} be told apart from {named} at n = {found.n:,}."
    if better:
        who = (
            f"the {arms} beats"
            if many == 1
            else f"all {many} {arms} beat"
            if len(better) == many
            else f"{len(better)} of {many} {arms} beat"
        )
        said = f"{who} {named}, by {_points(better)} points"
        said += (
            f"; {_names(found, worse)} {'is' if len(worse) == 1 else 'are'} worse than it" if worse else ""
        )
    else:
        said = f"{len(worse)} of {many} {arms} {'is' if len(worse) == 1 else 'are'} worse than {named}"
    return f"{said}; {_names(found, unclear)} cannot be told apart from it." if unclear else f"{said}."


def _format_only(found: Findings) -> str:
    """Said where arms beat the best prompt under strict grading, but not in problems solved in whatever format."""
    base = found.baseline
    if base is None:
        return ""
    ahead = [
        r
        for r in found.results
        if r.pair is not None and r.pair.verdict == "better" and r.score.flexible <= base.score.flexible
    ]
    if not ahead:
        return ""
    low, high = (wording.percent(end(r.score.flexible for r in ahead)) for end in (min, max))
    theirs = low if low == high else f"{low} to {high}"
    return (
        f"flexible grading, which forgives the format, gives the best prompt {wording.percent(base.score.flexible)} and "
        f"{', '.join(r.title for r in ahead)} {theirs}: what these gained under strict grading is the format, not more problems solved."
    )


def _points(pairs: Sequence[Pair]) -> str:
    low, high = (f"{100 * end(pair.difference.estimate for pair in pairs):.1f}" for end in (min, max))
    return low if low == high else f"{low} to {high}"


def _names(found: Findings, pairs: Sequence[Pair]) -> str:
    return ", ".join(found.title(pair.a) for pair in pairs)


def _rewarded(told: Sequence[Gain]) -> list[str]:
    """Each start of reinforcement learning in a sentence or two: what was gained from it, with the format forgiven too."""
    said = []
    for start in dict.fromkeys(gain.start.arm.name for gain in told):
        tested = [gain for gain in told if gain.start.arm.name == start and gain.pair is not None]
        better, worse, unclear = (
            [g for g in tested if g.pair is not None and g.pair.verdict == kind]
            for kind in ("better", "worse", "unresolved")
        )
        lines = [_gained(better), _no_gain(worse, "worse than"), _no_gain(unclear, "not told apart from")]
        said.append(" ".join(filter(None, lines)))
    return said


def _gained(better: Sequence[Gain]) -> str:
    if not better:
        return ""
    start = better[0].start
    listed = [
        f"{g.result.title} by {_size(g.strict.estimate)} points ({wording.span(g.strict.low, g.strict.high)}; {_size(g.flexible.estimate)} with the format forgiven)"
        for g in better
    ]
    said = f"Reinforcement learning beats {start.title}, from which it starts ({wording.percent(start.score.accuracy)}): {wording.both(listed)}."
    formal = wording.both([g.result.title for g in better if g.flexible.low <= 0])
    return f"{said} What {formal} gained cannot be told from learning the format." if formal else said


def _no_gain(found: Sequence[Gain], relation: str) -> str:
    """Example: `LoRA GRPO is not told apart from full main, from which it starts (+0.4 points).`"""
    if not found:
        return ""
    verb, starts = ("is", "it starts") if len(found) == 1 else ("are", "they start")
    listed = wording.both([wording.points(gain.strict.estimate) for gain in found])
    names = wording.both([gain.result.title for gain in found])
    return sentence(
        f"{names} {verb} {relation} {found[0].start.title}, from which {starts} ({listed} points)."
    )


def stories(found: Findings) -> list[str]:
    """What every arm of reinforcement learning changed, a paragraph each."""
    return [sentence(_story(gain)) for gain in gains(found)]


def _story(gain: Gain) -> str:
    after, before, strict, flexible = gain.result, gain.start, gain.strict, gain.flexible
    p = f", Holm p {wording.p_value(gain.pair.p_holm)}" if gain.pair else ", not a declared comparison"
    said = (
        f"{after.title} fixed {strict.fixed:,} problems that {before.title} had wrong and broke {strict.broken:,} that it had right: "
        f"{wording.points(strict.estimate)} points ({wording.span(strict.low, strict.high)}{p}). Flexible grading: "
        f"{wording.points(flexible.estimate)} ({wording.span(flexible.low, flexible.high)}); format rate: "
        f"{wording.percent(format_rate(before.source))} before, {wording.percent(format_rate(after.source))} after."
    )
    if groups := gain.groups.get("template"):
        parts = [
            f"{label}: {wording.points(gap.estimate)} ({wording.span(gap.low, gap.high)})"
            for label, gap in groups
        ]
        said += f" On templates {', '.join(parts)}."
    if gain.kinds:
        kind, (was, now) = max(gain.kinds.items(), key=lambda item: abs(item[1][1] - item[1][0]))
        said += f" The kind of error that changed most, {KINDS[kind].title}: {was:,} before, {now:,} after."
    return said


def _size(difference: float) -> str:
    return wording.points(difference).lstrip("+")


def _between_arms(found: Findings, gains: Sequence[Gain]) -> str:
    """The declared pairs other than those with the best prompt, and those of `gains`."""
    base, known = found.study.baseline, [gain.pair for gain in gains]
    pairs = [
        pair
        for pair in found.pairs
        if pair not in known and (base is None or base.name not in (pair.a, pair.b))
    ]
    clear = [pair for pair in pairs if pair.verdict != "unresolved"]
    told = "; ".join(
        f"{found.title(p.a)} is {p.verdict} than {found.title(p.b)} ({wording.points(p.difference.estimate)} points)"
        for p in clear
    )
    unclear = [
        f"{found.title(pair.a)} and {found.title(pair.b)}" for pair in pairs if pair.verdict == "unresolved"
    ]
    said = [f"{told}."] if told else []
    if len(unclear) >= 4:
        said.append(
            f"The {'other ' if clear else ''}{len(unclear)} declared pairs cannot be told apart at n = {found.n:,}."
        )
    elif unclear:
        said.append(f"Not told apart at n = {found.n:,}: {'; '.join(unclear)}.")
    return " ".join(said)


def limits(found: Findings) -> list[str]:
    """What the study cannot say, one sentence each."""
    said = [
        f"One seed ({found.study.seed}): the variance between seeds was not measured, so a difference speaks of these runs, not yet of the methods."
    ]
    for pair in found.pairs:
        if pair.verdict == "unresolved":
            seen = (
                f"if the difference seen ({wording.points(pair.difference.estimate)} points) is the true one"
            )
            need = f": about {wording.about(pair.needs)} problems would tell, {seen}" if pair.needs else ""
            said.append(f"{found.title(pair.a)} and {found.title(pair.b)} cannot be told apart{need}.")
    said += [
        f"No arm trained {title} further without a reward, so that what reinforcement learning gained cannot be told apart from what more training would have."
        for title in _uncontrolled(found)
    ]
    cut = [
        (result.title, result.score.truncated)
        for result in found.results
        if result.score.truncated >= NOTABLE
    ]
    unmarked = [
        (result.title, result.score.format_penalty)
        for result in found.results
        if result.score.format_penalty >= NOTABLE
    ]
    if cut:
        said.append(f"Answers cut at the length limit count as not solved: {_shares(cut)}.")
    if unmarked:
        said.append(
            f"Right numbers without the format asked for are not counted by strict grading: {_shares(unmarked)}."
        )
    said += [f"{arm.title} has no result ({why})." for arm in found.study.arms if (why := lost(found, arm))]
    return [sentence(line) for line in said] + list(found.comparison.notes if found.comparison else ())


def _uncontrolled(found: Findings) -> list[str]:
    """Titles of the starts of reinforcement learning from which nothing else was trained."""
    continued = {name for result in found.results if result.arm.method == "sft" for name in result.arm.after}
    return list(
        dict.fromkeys(gain.start.title for gain in gains(found) if gain.start.arm.name not in continued)
    )


def _shares(named: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{title} {wording.percent(share)}" for title, share in named)
