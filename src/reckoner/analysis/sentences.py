"""Results in sentences: what a study, a pair, a run or two runs show, and what they cannot show.

A ranking is stated only where a declared test supports it. Other pairs are listed as not told apart, with
the number of problems that would tell. Trained arms are graded strictly. A prompt counts by the better of
strict and flexible grading, so that learning the format cannot pass for learning to solve.
"""

from __future__ import annotations

from collections.abc import Sequence

from reckoner.analysis.changes import Change, Diff
from reckoner.analysis.compare import CountPair, Pair
from reckoner.analysis.findings import Findings, Gain, Result, format_rate, lost
from reckoner.analysis.mistakes import KINDS, Profile
from reckoner.analysis.wording import (
    about,
    both,
    count,
    p_value,
    percent,
    percents,
    points,
    sentence,
    size,
    span,
)

EMBEDDED = (
    "The model is small and made for this study, and the problems are made from templates, so that "
    "everything can be checked in minutes.",
    "This is no evidence about large models: `reckon study --preset smollm2` compares the methods on a real "
    "one.",
)
"""What the embedded study is, and what it is not."""
NOTABLE = 0.05
"""Share of the answers from which truncated or unmarked answers are mentioned."""


def pair_sentence(pair: Pair | CountPair) -> str:
    """The result of one pair, for a reader who sees nothing else."""
    if isinstance(pair, CountPair):
        estimate, low, high, items = pair.estimate, pair.low, pair.high, "different items"
    else:
        gap = pair.difference
        estimate, low, high, items = gap.estimate, gap.low, gap.high, f"{gap.n:,} shared items"
    interval = f"95 % interval {span(low, high)}, {items}, Holm p {p_value(pair.p_holm)}"
    seen = f"{points(estimate)} points ({interval})"
    if pair.verdict != "unresolved":
        return f"{pair.a} is {pair.verdict} than {pair.b}: {seen}"
    needs = f"; at this difference about {about(pair.needs)} items would resolve it" if pair.needs else ""
    return f"{pair.a} and {pair.b} cannot be told apart at this n: {seen}{needs}"


def profile_sentence(profile: Profile) -> str:
    """What a run got wrong, in one line."""
    return (
        f"{profile.name}: {profile.wrong:,} of {profile.n:,} completions are wrong; "
        f"{profile.slips:,} hold a false calculation, {profile.lucky:,} of them right all the same"
    )


def diff_sentence(diff: Diff) -> str:
    """What changed from one run to the other, in one line."""
    return (
        f"{diff.b} fixed {len(diff.fixed):,} and broke {len(diff.broken):,} of {diff.n:,} problems of "
        f"{diff.a}; both solve {diff.both_right:,}, neither {diff.both_wrong:,}"
    )


def parting_sentence(diff: Diff, change: Change) -> str:
    """Where the two texts part, in one line."""
    if change.parting is None:
        return "their calculations are the same"
    a, b = change.parting.a or "has ended", change.parting.b or "has ended"
    return f"they part at {change.parting.unit} {change.parting.place}: {diff.a} {a} | {diff.b} {b}"


def heading(findings: Findings) -> str:
    """Data, decoding, grading, seed and how often test was opened, in one line."""
    facts = [findings.study.name]
    if findings.results:
        reads = sorted({result.evaluation.reads for result in findings.results})
        times = "once" if reads == [1] else f"{' or '.join(map(str, reads))} times"
        decoding = ", ".join(sorted({result.evaluation.decoding for result in findings.results}))
        facts += [f"test {findings.n:,}", decoding, "strict grading", f"seed {findings.study.seed}"]
        facts.append(f"test opened {times} by each arm")
    return " \u00b7 ".join(facts)


def verdict(findings: Findings) -> list[str]:
    """A headline, and its count, seen and unseen templates, the declared tests, and open pairs."""
    if not findings.results:
        return ["No arm has a test result yet."]
    gained = findings.gains
    lines = (
        _headline(findings),
        _count(findings),
        _templates(findings),
        _against_baseline(findings),
        _format_only(findings),
        *_rewarded(gained),
        _between_arms(findings, gained),
    )
    return [sentence(line) for line in lines if line]


def _score(result: Result) -> str:
    """The share solved; of a prompt that forgets the format, both shares."""
    if result.reading == "strict":
        return percent(result.score.accuracy)
    return (
        f"{percent(result.score.flexible)} with the format forgiven, {percent(result.score.accuracy)} strict"
    )


def _headline(findings: Findings) -> str:
    """What solved most, beside the best prompt."""
    best, base = findings.best, findings.baseline
    names, solves = both([result.title for result in best]), "solves" if len(best) == 1 else "solve"
    if not any(result.solved for result in findings.results):
        return f"No arm solved any of the {findings.n:,} test problems."
    if base is None or not findings.tested:
        return f"{names} {solves} the most of {findings.n:,} test problems: {_score(best[0])}."
    if all(result.pair is not None and result.pair.verdict == "better" for result in best):
        return (
            f"{names} {solves} {_score(best[0])} of the test problems; the best prompt solves {_score(base)}."
        )
    prompt = f"the best prompt, which solves {_score(base)}"
    if best[0].solved > base.solved:
        return f"{names} {solves} the most, {_score(best[0])}, but cannot be told apart from {prompt}."
    return f"No trained arm solves more than {prompt}: {names} {solves} {_score(best[0])}."


def _count(findings: Findings) -> str:
    """The count behind the headline with its interval, and the test behind it."""
    best, base = findings.best[0], findings.baseline
    score, pair = best.score, best.pair
    if not best.solved:
        return f"The 95 % interval reaches up to {percent(score.high)}."
    if best.reading == "flexible":
        return ""
    interval = f"95 % interval {span(score.low, score.high)} %"
    solved = f"this run solves {count(score.correct)} of {score.n:,} ({interval})."
    if pair is None or base is None:
        return solved
    gap, forgiven = pair.difference, " with its format forgiven" if base.reading == "flexible" else ""
    tested = f"({span(gap.low, gap.high)}; Holm p {p_value(pair.p_holm)})"
    return f"{solved} Its difference to {base.title}{forgiven} is {points(gap.estimate)} points {tested}."


def _templates(findings: Findings) -> str:
    """Seen and unseen templates apart, where the problems say which is which."""
    best = findings.best[0]
    seen, unseen = best.by_template(unseen=False), best.by_template(unseen=True)
    if not seen[1] or not unseen[1]:
        return ""
    most = max(k / n for k, n in (result.by_template(unseen=True) for result in findings.results))
    return (
        f"{best.title} solves {percent(seen[0] / seen[1])} of the problems from templates seen in "
        f"training ({seen[0]:,} of {seen[1]:,}). It solves {percent(unseen[0] / unseen[1])} of those "
        f"from unseen templates ({unseen[0]:,} of {unseen[1]:,}). No arm solves more than "
        f"{percent(most)} of these."
    )


def _against_baseline(findings: Findings) -> str:
    base, tested = findings.baseline, findings.tested
    if base is None or not tested:
        return ""
    prompt = f"the best prompt ({base.title}, {_score(base)})"
    better, worse, unclear = _by_verdict(tested)
    many, runs = len(tested), "trained run" if len(tested) == 1 else "trained runs"
    if len(unclear) == many:
        subject = f"the {runs} cannot" if many == 1 else f"none of the {many} {runs} can"
        return f"{subject} be told apart from {prompt} at n = {findings.n:,}."
    if better:
        some = f"all {many}" if len(better) == many else f"{len(better)} of {many}"
        subject = f"the {runs} beats" if many == 1 else f"{some} {runs} beat"
        estimates = [pair.difference.estimate for pair in better]
        by = " to ".join(dict.fromkeys((size(min(estimates)), size(max(estimates)))))
        rest = f"; {_names(findings, worse)} {_are(worse)} worse than it" if worse else ""
        text = f"{subject} {prompt}, by {by} points{rest}"
    else:
        text = f"{len(worse)} of {many} {runs} {_are(worse)} worse than {prompt}"
    return f"{text}; {_names(findings, unclear)} cannot be told apart from it." if unclear else f"{text}."


def _by_verdict(pairs: Sequence[Pair]) -> list[list[Pair]]:
    return [[pair for pair in pairs if pair.verdict == one] for one in ("better", "worse", "unresolved")]


def _are(several: Sequence[object]) -> str:
    return "is" if len(several) == 1 else "are"


def _names(findings: Findings, pairs: Sequence[Pair]) -> str:
    return ", ".join(findings.title(pair.a) for pair in pairs)


def _format_only(findings: Findings) -> str:
    """Arms that beat the best prompt only as long as its format is not forgiven."""
    base, fair = findings.baseline, {pair.a for pair in findings.tested if pair.verdict == "better"}
    strict = {
        pair.a for pair in findings.pairs if pair.verdict == "better" and base and pair.b == base.arm.name
    }
    ahead = [r for r in findings.results if r.arm.method != "prompt" and r.arm.name in strict - fair]
    if base is None or not ahead:
        return ""
    names = both([r.title for r in ahead]) if len(ahead) < 4 else f"{len(ahead)} trained runs"
    theirs = percents([result.score.flexible for result in ahead])
    runs = "this run" if len(ahead) == 1 else "these runs"
    return (
        f"{names} {_are(ahead)} ahead of the best prompt only by strict grading. With the format "
        f"forgiven, the best prompt solves {percent(base.score.flexible)} and "
        f"{runs} {theirs}. The gain over it cannot be told "
        "from learning the format."
    )


def _rewarded(gained: Sequence[Gain]) -> list[str]:
    """For each start of reinforcement learning, what was gained from it, with the format forgiven too."""
    lines = []
    for start in dict.fromkeys(gain.start.arm.name for gain in gained):
        own = [gain for gain in gained if gain.start.arm.name == start]
        tested = [(gain, gain.pair.verdict) for gain in own if gain.pair is not None]
        better, worse, unclear = (
            [gain for gain, one in tested if one == wanted] for wanted in ("better", "worse", "unresolved")
        )
        outcomes = [_better(better), _no_gain(worse, "worse than"), _no_gain(unclear, "not told apart from")]
        lines.append(" ".join(filter(None, outcomes)))
    return lines


def _better(better: Sequence[Gain]) -> str:
    if not better:
        return ""
    start = better[0].start
    listed = [
        f"{g.result.title} {size(g.strict.estimate)} points ({span(g.strict.low, g.strict.high)}; "
        f"{size(g.flexible.estimate)} with the format forgiven)"
        for g in better
    ]
    runs = "this run gains" if len(better) == 1 else "these runs gain"
    origin = f"{start.title} ({percent(start.score.accuracy)})"
    text = f"by reinforcement learning from {origin} {runs}: {both(listed)}."
    formal = both([g.result.title for g in better if g.flexible.low <= 0])
    return sentence(
        f"{text} What {formal} gained cannot be told from learning the format." if formal else text
    )


def _no_gain(several: Sequence[Gain], relation: str) -> str:
    """Example: `LoRA GRPO is not told apart from full main, from which it starts (+0.4 points).`"""
    if not several:
        return ""
    starts = "it starts" if len(several) == 1 else "they start"
    names = both([gain.result.title for gain in several])
    listed = both([points(gain.strict.estimate) for gain in several])
    start = several[0].start.title
    return sentence(f"{names} {_are(several)} {relation} {start}, from which {starts} ({listed} points).")


def stories(findings: Findings) -> list[str]:
    """What every arm of reinforcement learning changed, a paragraph each."""
    return [sentence(_story(gain)) for gain in findings.gains]


def _story(gain: Gain) -> str:
    after, before, strict, flexible = gain.result, gain.start, gain.strict, gain.flexible
    p = f", Holm p {p_value(gain.pair.p_holm)}" if gain.pair else ", not a declared comparison"
    text = (
        f"{after.title} fixed {strict.fixed:,} problems that {before.title} had wrong and broke "
        f"{strict.broken:,} that it had right: {points(strict.estimate)} points "
        f"({span(strict.low, strict.high)}{p}). Flexible grading: {points(flexible.estimate)} "
        f"({span(flexible.low, flexible.high)}); format rate: {percent(format_rate(before.source))} "
        f"before, {percent(format_rate(after.source))} after."
    )
    if groups := gain.groups.get("template"):
        listed = (f"{label}: {points(gap.estimate)} ({span(gap.low, gap.high)})" for label, gap in groups)
        text += f" On templates {', '.join(listed)}."
    if gain.kinds:
        kind, (was, now) = max(gain.kinds.items(), key=lambda item: abs(item[1][1] - item[1][0]))
        text += f" The kind of error that changed most, {KINDS[kind].title}: {was:,} before, {now:,} after."
    return text


def _between_arms(findings: Findings, gained: Sequence[Gain]) -> str:
    """The declared pairs other than those with the best prompt, and those of `gained`."""
    base, known = findings.study.baseline, [gain.pair for gain in gained]
    others = [
        pair
        for pair in findings.pairs
        if pair not in known and (not base or base.name not in (pair.a, pair.b))
    ]
    clear = [pair for pair in others if pair.verdict != "unresolved"]
    unclear = [
        f"{findings.title(p.a)} and {findings.title(p.b)}" for p in others if p.verdict == "unresolved"
    ]
    results = (
        f"{findings.title(p.a)} is {p.verdict} than {findings.title(p.b)} "
        f"({points(p.difference.estimate)} points)"
        for p in clear
    )
    lines = [f"{'; '.join(results)}."] if clear else []
    if len(unclear) >= 4:
        other = "other " if clear else ""
        many = f"{other}{len(unclear)} declared pairs"
        lines.append(f"The {many} cannot be told apart at n = {findings.n:,}.")
    elif unclear:
        lines.append(f"Not told apart at n = {findings.n:,}: {'; '.join(unclear)}.")
    return " ".join(lines)


def limits(findings: Findings) -> list[str]:
    """What the study cannot say, one sentence each."""
    lines = [
        f"Each arm is one run, with seed {findings.study.seed}. The variance between seeds was not "
        "measured, so a difference speaks of these runs and not yet of the methods."
    ]
    if findings.study.preset == "nano" and _problem_sources(findings) == {"nano"}:
        lines = [*EMBEDDED, *lines]
    for pair in findings.judged:
        if pair.verdict == "unresolved":
            apart = f"{findings.title(pair.a)} and {findings.title(pair.b)} cannot be told apart"
            seen = f"the difference seen ({points(pair.difference.estimate)} points) is the true one"
            need = f": about {about(pair.needs)} problems would tell, if {seen}" if pair.needs else ""
            lines.append(f"{apart}{need}.")
    continued = {
        name
        for result in findings.results
        if result.arm.method != "prompt" and not result.arm.rewarded
        for name in result.arm.after
    }
    starts = dict.fromkeys(
        gain.start.title for gain in findings.gains if gain.start.arm.name not in continued
    )
    lines += [
        f"No arm trained {title} further without a reward, so the gain of reinforcement learning "
        "cannot be told apart from that of more training."
        for title in starts
    ]
    shares = {
        "Answers cut at the length limit count as not solved": "truncated",
        "Strict grading does not count right numbers without the format asked for": "format_penalty",
    }
    for what, name in shares.items():
        named = [(result.title, getattr(result.score, name)) for result in findings.results]
        listed = [f"{title} {percent(share)}" for title, share in named if share >= NOTABLE]
        lines += [f"{what}: {', '.join(listed)}."] if listed else []
    lines += [
        f"{arm.title} has no result ({why})." for arm in findings.study.arms if (why := lost(findings, arm))
    ]
    return [sentence(line) for line in lines] + list(findings.comparison.notes if findings.comparison else ())


def _problem_sources(findings: Findings) -> set[str]:
    return {problem.source for result in findings.results for problem in result.source.problems.values()}


def baseline_sentence(findings: Findings) -> str:
    """Which prompt is the baseline and why."""
    prompts = [result for result in findings.results if result.arm.method == "prompt"]
    dev = [(result.title, result.run.evaluation("dev")) for result in prompts]
    scored = ", ".join(f"{title} {entry.strict:,}/{entry.n:,}" for title, entry in dev if entry)
    if findings.baseline is None or not scored:
        return "No prompting arm was scored on dev, so there is no baseline."
    return (
        f"Baseline: {findings.baseline.title}, the best of the prompts on dev ({scored}). All of them are "
        "shown on test. Its test score is the better of strict and flexible grading."
    )
