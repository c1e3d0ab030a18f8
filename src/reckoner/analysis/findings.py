"""What a study found, in rows and in sentences: every figure, table and line of the report takes its numbers from here.

A ranking is stated only where a declared test found a difference; the rest is listed as not told apart, with the number
of problems that would tell. Losses of arms with different targets never meet in one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from reckoner.analysis import compare, wording
from reckoner.analysis.canvas import Mark, marks, sentence
from reckoner.analysis.compare import Comparison, Pair
from reckoner.analysis.errors import Profile, diagnoses, profile
from reckoner.analysis.runfiles import Key, Source, read_source
from reckoner.analysis.study_records import Arm, Evaluation, Run, Study, Training
from reckoner.analysis.taxonomy import Diagnosis

LAST = 50
"""`final_loss` is the mean training loss of this many last logged steps, or of the last tenth of a shorter log."""

NOTABLE = 0.05
"""Share of the answers from which a truncated or unmarked rest is said in words."""


@dataclass(frozen=True, slots=True)
class Result:
    """One arm that was evaluated on test. `pair` is its declared comparison with the best prompt, None where there is none."""

    arm: Arm
    run: Run
    mark: Mark
    score: compare.Arm
    pair: Pair | None
    evaluation: Evaluation
    source: Source

    @property
    def title(self) -> str:
        return self.arm.title


@dataclass(frozen=True)
class Findings:
    """A study with its comparison on test. `marks` has one for each arm of the study; `baseline` is the best prompt.

    `comparison` is None where no arm has a result.
    """

    study: Study
    marks: tuple[Mark, ...]
    results: tuple[Result, ...]
    comparison: Comparison | None

    @property
    def n(self) -> int:
        """Problems that all arms were compared on."""
        return self.comparison.n if self.comparison else 0

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The declared comparisons."""
        return self.comparison.pairs if self.comparison else ()

    @property
    def trained(self) -> list[tuple[Result, Training]]:
        """Results of arms that trained, with what that took."""
        return [(result, result.run.training) for result in self.results if result.run.training is not None]

    @property
    def baseline(self) -> Result | None:
        """The result of the best prompt on dev."""
        return self.of(self.study.baseline) if self.study.baseline else None

    @property
    def tested(self) -> list[Pair]:
        """The comparisons of trained arms with the best prompt."""
        return [result.pair for result in self.results if result.pair is not None and result.arm.method != "prompt"]

    @cached_property
    def diagnoses(self) -> list[dict[Key, Diagnosis | None]]:
        """What is wrong with each completion of every result, in the order of the study."""
        return [diagnoses(result.source) for result in self.results]

    @cached_property
    def profiles(self) -> list[Profile]:
        """The errors of every result, counted."""
        return [profile(result.source, known) for result, known in zip(self.results, self.diagnoses, strict=True)]

    def of(self, arm: Arm) -> Result | None:
        """The result of one arm."""
        return next((result for result in self.results if result.arm is arm), None)

    def title(self, name: str) -> str:
        """The title of the arm called `name`."""
        return self.study.arm(name).title


def find(study: Study) -> Findings:
    """Compare the arms of a study on test as it declared; raises `InputError` where they cannot be compared fairly."""
    looks = marks([arm.method != "prompt" for arm in study.arms])
    tested = [(arm, arm.run, look, arm.run.evaluation("test")) for arm, look in zip(study.arms, looks, strict=True) if arm.run]
    sources = {arm.name: replace(read_source(run.folder, split="test"), name=arm.name) for arm, run, _, test in tested if test}
    if not sources:
        return Findings(study, tuple(looks), (), None)
    base = study.baseline.name if study.baseline is not None and study.baseline.name in sources else ""
    comparison = compare.compare(list(sources.values()), study.pairs, "" if study.pairs else base, intersect=True)
    scores = {arm.name: arm for arm in comparison.arms}
    against = {pair.a: pair for pair in comparison.pairs if pair.b == base}
    results = [
        Result(arm, run, look, scores[arm.name], against.get(arm.name), test, sources[arm.name]) for arm, run, look, test in tested if test
    ]
    return Findings(study, tuple(looks), tuple(results), comparison)


def final_loss(run: Run) -> tuple[float, int] | None:
    """Mean training loss of the last logged steps and how many these are; None without a log."""
    losses = run.series("loss")[1]
    last = min(LAST, max(1, len(losses) // 10))
    return (sum(losses[-last:]) / last, last) if losses else None


def lost(found: Findings, arm: Arm) -> str:
    """Why an arm has no result, empty where it has one."""
    if found.of(arm):
        return ""
    state = "not evaluated on test" if arm.state == "done" else arm.state
    return f"{state}: {arm.reason}" if arm.reason else state


def verdict(found: Findings) -> list[str]:
    """A few sentences: what the declared tests found, the most that was reached, and what cannot be told apart."""
    if not found.results:
        return ["No arm has a test result yet."]
    return [sentence(said) for said in (_against_baseline(found), _format_only(found), _most(found), _between_arms(found)) if said]


def _against_baseline(found: Findings) -> str:
    base, tested = found.baseline, found.tested
    if base is None or not tested:
        return ""
    named = f"the best prompt ({base.title}, {wording.percent(base.score.accuracy)})"
    better, worse, unclear = ([pair for pair in tested if pair.verdict == kind] for kind in ("better", "worse", "unresolved"))
    many, arms = len(tested), "trained arm" if len(tested) == 1 else "trained arms"
    if len(unclear) == many:
        return f"{'the' if many == 1 else f'none of the {many}'} {arms} can{'not' if many == 1 else ''} be told apart from {named} at n = {found.n:,}."
    if better:
        who = f"the {arms} beats" if many == 1 else f"all {many} {arms} beat" if len(better) == many else f"{len(better)} of {many} {arms} beat"
        said = f"{who} {named}, by {_points(better)} points"
        said += f"; {_names(found, worse)} {'is' if len(worse) == 1 else 'are'} worse than it" if worse else ""
    else:
        said = f"{len(worse)} of {many} {arms} {'is' if len(worse) == 1 else 'are'} worse than {named}"
    return f"{said}; {_names(found, unclear)} cannot be told apart from it." if unclear else f"{said}."


def _format_only(found: Findings) -> str:
    """Said where arms beat the best prompt under strict grading, but not in problems solved in whatever format."""
    base = found.baseline
    if base is None:
        return ""
    ahead = [r for r in found.results if r.pair is not None and r.pair.verdict == "better" and r.score.flexible <= base.score.flexible]
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


def _most(found: Findings) -> str:
    score = max((result.score for result in found.results), key=lambda score: score.accuracy)
    names = " and ".join(result.title for result in found.results if result.score.accuracy == score.accuracy)
    if score.correct == 0:
        return f"No arm solved any of the {score.n:,} test problems (95 % interval up to {wording.percent(score.high)})."
    solved = f"{wording.count(score.correct)} of {score.n:,} test problems"
    return f"The most were solved by {names}: {solved} ({wording.percent(score.accuracy)}, 95 % interval {wording.span(score.low, score.high)})."


def _between_arms(found: Findings) -> str:
    """The declared pairs other than those with the best prompt."""
    base = found.study.baseline
    pairs = [pair for pair in found.pairs if base is None or base.name not in (pair.a, pair.b)]
    clear = [pair for pair in pairs if pair.verdict != "unresolved"]
    told = "; ".join(f"{found.title(p.a)} is {p.verdict} than {found.title(p.b)} ({wording.points(p.difference.estimate)} points)" for p in clear)
    unclear = [f"{found.title(pair.a)} and {found.title(pair.b)}" for pair in pairs if pair.verdict == "unresolved"]
    if not unclear:
        return f"{told}." if told else ""
    rest = "; ".join(unclear) if len(unclear) < 4 else f"the other {len(unclear)} declared pairs" if clear else f"the {len(unclear)} declared pairs"
    return f"{f'{told}; ' if told else ''}{rest} cannot be told apart at n = {found.n:,}."


def limits(found: Findings) -> list[str]:
    """What the study cannot say, one sentence each."""
    said = [f"One seed ({found.study.seed}): the variance between seeds was not measured, so a difference speaks of these runs, not yet of the methods."]
    for pair in found.pairs:
        if pair.verdict == "unresolved":
            seen = f"if the difference seen ({wording.points(pair.difference.estimate)} points) is the true one"
            need = f": about {wording.about(pair.needs)} problems would tell, {seen}" if pair.needs else ""
            said.append(f"{found.title(pair.a)} and {found.title(pair.b)} cannot be told apart{need}.")
    cut = [(result.title, result.score.truncated) for result in found.results if result.score.truncated >= NOTABLE]
    unmarked = [(result.title, result.score.format_penalty) for result in found.results if result.score.format_penalty >= NOTABLE]
    if cut:
        said.append(f"Answers cut at the length limit count as not solved: {_shares(cut)}.")
    if unmarked:
        said.append(f"Right numbers without the format asked for are not counted by strict grading: {_shares(unmarked)}.")
    said += [f"{arm.title} has no result ({why})." for arm in found.study.arms if (why := lost(found, arm))]
    return [sentence(line) for line in said] + list(found.comparison.notes if found.comparison else ())


def _shares(named: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{title} {wording.percent(share)}" for title, share in named)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a terminal shows at the end of a study: one line, a table, and lines in words."""

    heading: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[str, ...]


HEADERS = ("arm", "right", "accuracy", "95 % interval", "flexible", "vs best prompt", "Holm p", "verdict", "time", "tokens")


def summary_table(found: Findings) -> Summary:
    """The rows and words for the end of `reckon study`."""
    rows = tuple(_terminal_row(found, arm) for arm in found.study.arms)
    return Summary(heading(found), HEADERS, rows, (*verdict(found), *limits(found), f"report: {found.study.folder / 'report.html'}"))


def _terminal_row(found: Findings, arm: Arm) -> tuple[str, ...]:
    result = found.of(arm)
    if result is None:
        return (arm.title, *[""] * 6, arm.state, "", "")
    score, pair, training = result.score, result.pair, result.run.training
    counted = (f"{wording.count(score.correct)}/{score.n:,}", wording.percent(score.accuracy), wording.span(score.low, score.high))
    gap = f"{wording.points(pair.difference.estimate)} ({wording.span(pair.difference.low, pair.difference.high)})" if pair else ""
    tested = (gap, wording.p_value(pair.p_holm), word(pair)) if pair else ("", "", "")
    trained = (clock(training.seconds), amount(training.tokens)) if training else ("", "")
    title = f"{arm.title} (best prompt)" if result is found.baseline else arm.title
    return (title, *counted, wording.percent(score.flexible), *tested, *trained)


def heading(found: Findings) -> str:
    """Data, decoding, grading, seed and reads in one line."""
    parts = [found.study.name]
    if found.results:
        reads = sorted({result.evaluation.reads for result in found.results})
        times = "once" if reads == [1] else f"{' or '.join(map(str, reads))} times"
        decoding = ", ".join(sorted({result.evaluation.decoding for result in found.results}))
        parts += [f"test {found.n:,}", decoding, "strict grading", f"seed {found.study.seed}", f"test opened {times} by each arm"]
    return " \u00b7 ".join(parts)


def document(found: Findings) -> dict[str, Any]:
    """The same for a program: every arm with its state, the whole comparison, and the sentences."""
    return {
        "study": found.study.name,
        "seed": found.study.seed,
        "baseline": found.study.baseline.name if found.study.baseline else None,
        "arms": [{"name": arm.name, "title": arm.title, "state": arm.state, "reason": arm.reason} for arm in found.study.arms],
        "comparison": asdict(found.comparison) if found.comparison else None,
        "verdict": verdict(found),
        "limits": limits(found),
        "report": str(found.study.folder / "report.html"),
    }


def word(pair: Pair) -> str:
    """One word or two for a table."""
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
