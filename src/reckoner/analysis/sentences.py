"""Results in sentences: what a study, a run or two runs show. `pairs` says it of a pair, `limits` what not.

A ranking is stated only where a declared test supports it. Other pairs are listed as not told apart, with
the number of problems or seeds that would tell. Trained arms are graded strictly. A prompt counts by the
better of strict and flexible grading, so that learning the format cannot pass for learning to solve. Below
three seeds a sentence speaks of these runs, and never of a method.
"""

from __future__ import annotations

from collections.abc import Sequence

from reckoner.analysis.changes import Change, Diff
from reckoner.analysis.compare import Pair
from reckoner.analysis.controls import Split, splits
from reckoner.analysis.findings import Findings, Gain, Part, Result
from reckoner.analysis.mistakes import Profile
from reckoner.analysis.pairs import ranked, tested_as
from reckoner.analysis.seeds import ENOUGH
from reckoner.analysis.wording import (
    IN_TRAIN,
    NOT_IN_TRAIN,
    at_budget,
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

ALPHA = 0.05


def declared_only(findings: Findings) -> str:
    """` with a declared comparison` where a trained arm has none with the best prompt, else nothing."""
    trained = sum(result.arm.method != "prompt" for result in findings.results)
    return " with a declared comparison" if len(findings.tested) < trained else ""


def _of_runs(results: Sequence[Result]) -> str:
    """Names in a sentence on what they solve: `this run of full main`, or `full main` over enough seeds."""
    names = both([result.title for result in results])
    if all(result.seeds >= ENOUGH or result.arm.method == "prompt" for result in results):
        return names
    return f"{'this run' if len(results) == 1 and results[0].seeds == 1 else 'these runs'} of {names}"


def profile_sentence(profile: Profile) -> str:
    """What a run got wrong, in one line."""
    return (
        f"{profile.name}: {profile.wrong:,} of {profile.n:,} completions are wrong. "
        f"{profile.slips:,} hold a false calculation; {profile.lucky:,} of these are right all the same"
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
        facts += [f"test {findings.n:,}", decoding, "strict grading", _seeds(findings)]
        facts.append(f"test opened {times} by each arm")
    return " \u00b7 ".join(facts)


def seed_list(findings: Findings) -> list[int]:
    """The seeds of the arms that train."""
    seeds = list(dict.fromkeys(seed for arm in findings.study.arms if arm.seeds > 1 for seed in arm.runs))
    return seeds if len(seeds) > 1 else [findings.study.seed]


def _seeds(findings: Findings) -> str:
    """`seed 0`, or `seeds 0, 1, 2`."""
    seeds = seed_list(findings)
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


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
        *map(split_sentence, splits(findings)),
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
    who = _of_runs(best)
    solves = "solves" if len(best) == 1 and not who.startswith("these") else "solve"
    if not any(result.solved for result in findings.results):
        return f"No arm solved any of the {findings.n:,} test problems."
    if base is None or not findings.tested:
        most = f"the most of {findings.n:,} test problems{_own_budgets(findings)}"
        return f"{who} {solves} {most}: {_score(best[0])}."
    if all(result.pair is not None and result.pair.verdict == "better" for result in best):
        seeds = min(result.seeds for result in best)
        over = f", on average over {seeds} seeds" if seeds >= ENOUGH else ""
        solved = f"{who} {solves} {_score(best[0])} of the test problems{over}"
        return f"{solved}; the best prompt solves {_score(base)}."
    prompt = f"the best prompt, which solves {_score(base)}"
    if best[0].solved > base.solved:
        most = f"the most{_own_budgets(findings)}, {_score(best[0])}"
        return f"{who} {solves} {most}, but cannot be told apart from {prompt}."
    return f"No trained arm solves more than {prompt}: {who} {solves} {_score(best[0])}."


def _own_budgets(findings: Findings) -> str:
    """What must stand beside a best of all arms where these spent unequally."""
    spent = [total for one in findings.results if (total := findings.operations(one))]
    unequal = len(spent) > 1 and at_budget(max(spent) / min(spent))
    return " (each arm at its own budget)" if unequal else ""


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
    if best.seeds > 1:
        each = both([count(run.correct * score.n / run.completions) for run in score.seeds])
        covers = "problems and seeds" if best.seeds >= ENOUGH else "problems alone"
        solved = f"its {best.seeds} runs solve {each} of {score.n:,} ({interval} over {covers})."
    if pair is None or base is None:
        return solved
    gap, forgiven = pair.difference, " with its format forgiven" if base.reading == "flexible" else ""
    tested = f"({span(gap.low, gap.high)}; Holm p {p_value(pair.p_holm)})"
    against = f"Against the best prompt, {base.title}{forgiven},"
    return f"{solved} {against} the difference is {points(gap.estimate)} points {tested}."


def _templates(findings: Findings) -> str:
    """Seen and unseen templates apart, where the problems say which is which."""
    best = findings.best[0]
    parts = [(result, result.parts("template", result.reading)) for result in findings.results]
    of_best = next(found for result, found in parts if result is best)
    if not of_best.keys() >= {IN_TRAIN, NOT_IN_TRAIN}:
        return ""
    seen, unseen = of_best[IN_TRAIN], of_best[NOT_IN_TRAIN]
    most = max((found[NOT_IN_TRAIN] for _, found in parts), key=lambda part: part.share)

    def counted(part: Part) -> str:
        return f"({count(part.right)} of {part.n:,}; 95 % interval {span(*part.bounds)} %)"

    return (
        f"{best.title} solves {percent(seen.share)} of the problems from templates seen in training "
        f"{counted(seen)}. It solves {percent(unseen.share)} of those from unseen templates "
        f"{counted(unseen)}. None of the {len(parts)} arms solves more than {percent(most.share)} of these "
        f"({span(*most.bounds)} %)."
    )


def _against_baseline(findings: Findings) -> str:
    base, tested = findings.baseline, findings.tested
    if base is None or not tested:
        return ""
    prompt = f"the best prompt ({base.title}, {_score(base)})"
    better, worse, unclear = _by_verdict(tested)
    many = len(tested)
    runs = f"trained {tested_as(tested)}{'s' * (many > 1)}{declared_only(findings)}"
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
        pair.a
        for pair in findings.strict_pairs
        if pair.verdict == "better" and base and pair.b == base.arm.name
    }
    ahead = [r for r in findings.results if r.arm.method != "prompt" and r.arm.name in strict - fair]
    if base is None or not ahead:
        return ""
    kind = tested_as([result.pair for result in ahead if result.pair])
    names = both([r.title for r in ahead]) if len(ahead) < 4 else f"{len(ahead)} trained {kind}s"
    theirs = percents([result.score.flexible for result in ahead])
    runs = "this run" if [result.seeds for result in ahead] == [1] else "these runs"
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
        f"{size(g.flexible.estimate)} with the format forgiven{at_budget(g.budget, '; ')})"
        for g in better
    ]
    kind = tested_as([gain.pair for gain in better if gain.pair])
    runs = f"this {kind} gains" if len(better) == 1 else f"these {kind}s gain"
    origin = f"{start.title} ({percent(start.score.accuracy)})"
    text = f"by reinforcement learning from {origin} {runs}: {both(listed)}."
    formal = both([g.result.title for g in better if g.flexible.low <= 0])
    return sentence(
        f"{text} What {formal} gained cannot be told from learning the format." if formal else text
    )


def _no_gain(several: Sequence[Gain], relation: str) -> str:
    """Example: `GRPO is not told apart from full main, from which it starts (+0.4 points at 2.1 times the
    operations).`
    """
    if not several:
        return ""
    starts = "it starts" if len(several) == 1 else "they start"
    names = both([gain.result.title for gain in several])
    gained = [(points(gain.strict.estimate), at_budget(gain.budget, " ")) for gain in several]
    alike = len({budget for _, budget in gained}) == 1
    listed = f"{both([one for one, _ in gained])} points{gained[0][1]}"
    listed = listed if alike else both([f"{one} points{budget}" for one, budget in gained])
    start = several[0].start.title
    if relation == "worse than" and tested_as([gain.pair for gain in several if gain.pair]) == "run":
        names = _of_runs([gain.result for gain in several])
    return sentence(f"{names} {_are(several)} {relation} {start}, from which {starts} ({listed}).")


def split_sentence(split: Split) -> str:
    """What a gain is made of, and whether the tests find the reward's own part; the table has the rest."""
    gain, reward = split.gain, split.parts[-1]
    placebos = {part.title for part in split.placebos}
    uneven = any(at_budget(ratio) for title, ratio in split.budgets.items() if title not in placebos)
    parts = [f"{part.title} {points(part.difference.estimate)}" for part in split.parts]
    text = (
        f"{sentence(gain.result.title)} differs from {gain.start.title} by {points(gain.strict.estimate)} "
        f"points: {both(parts)}, by controls of {'unequal' if uneven else 'equal'} operations."
    )
    interval = span(reward.difference.low, reward.difference.high)
    if reward.p_holm >= ALPHA:
        return f"{text} What {reward.title} added ({interval}) cannot be told from nothing."
    changed = "raised" if reward.difference.estimate > 0 else "lowered"
    what = f"{reward.title} {changed} the accuracy ({interval})."
    return f"{text} {sentence(what) if reward.difference.seeds >= ENOUGH else f'In these runs {what}'}"


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
        f"{findings.title(p.a)}{at_budget(findings.budget(p.a, p.b), ' ')} and {findings.title(p.b)}"
        for p in others
        if p.verdict == "unresolved"
    ]
    results = (
        f"{ranked(p, findings.title(p.a), findings.title(p.b))} ({points(p.difference.estimate)} points"
        f"{at_budget(findings.budget(p.a, p.b), ' ')})"
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


def baseline_sentence(findings: Findings) -> str:
    """Which prompt is the baseline and why."""
    prompts = [result for result in findings.results if result.arm.untrained]
    dev = [(result.title, result.run.evaluation("dev")) for result in prompts]
    scored = ", ".join(f"{title} {entry.strict:,}/{entry.n:,}" for title, entry in dev if entry)
    if findings.baseline is None or not scored:
        return "No prompting arm was scored on dev, so there is no baseline."
    search = findings.study.search
    tried = (
        f" A search tried {search['prompts']} prompts on dev, with {search['completions']:,} completions."
        if search
        else ""
    )
    return (
        f"Baseline: {findings.baseline.title}, the best of the prompts on dev ({scored}).{tried} All of them "
        "are shown on test. Its test score is the better of strict and flexible grading."
    )
