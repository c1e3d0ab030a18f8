"""What a study cannot say, in sentences: before any table of its report, and as the terminal's last words."""

from __future__ import annotations

from collections.abc import Mapping

from reckoner.analysis.findings import Findings, frontier, lost
from reckoner.analysis.pairs import would_tell
from reckoner.analysis.seeds import ENOUGH
from reckoner.analysis.wording import at_budget, percent, points, sentence

EMBEDDED = (
    "The model is small and made for this study, and the problems are made from templates, so that "
    "everything can be checked in minutes.",
    "This is no evidence about large models: the preset smollm2 compares the methods on a real one.",
)
"""What the embedded study is, and what it is not."""
NOTABLE = 0.05
"""Share of the answers from which truncated or unmarked answers are mentioned."""
NAMED = 4
"""Arms at most that one sentence names."""


def last_words(findings: Findings) -> list[str]:
    """What the terminal must not leave out: the first limit, and a search that was not equal."""
    return [*limits(findings)[:1], *filter(None, [search_sentence(trials(findings))])]


def trials(findings: Findings) -> dict[str, int]:
    """Trials on dev for the rate of each trained arm, by title; controls take the rates of others."""
    arms = (arm for arm in findings.study.arms if arm.method != "prompt" and not arm.control_of)
    return {arm.title: arm.trials for arm in arms}


def search_sentence(tried: Mapping[str, int]) -> str:
    """How unequally arms were searched; empty where they were searched alike, or not at all."""
    if len(set(tried.values())) < 2:
        return ""
    counts = ", ".join(f"{title} {count}" for title, count in tried.items())
    return (
        f"The learning rates were searched unequally on dev (trials: {counts}). A difference between these "
        "arms may be one of search."
    )


def _problem_sources(findings: Findings) -> set[str]:
    return {problem.source for result in findings.results for problem in result.source.problems.values()}


def limits(findings: Findings) -> list[str]:
    """What the study cannot say, one sentence each."""
    lines = [_seed_limits(findings)]
    if findings.study.model == "nano":
        made = _problem_sources(findings) == {"nano"}
        lines = [*(EMBEDDED if made else EMBEDDED[1:]), *lines]
    lines += [
        f"{arm.title} lacks runs ({arm.reason})." for arm in findings.study.arms if arm.run and arm.reason
    ]
    prompts = sum(result.arm.untrained for result in findings.results)
    if findings.tested and prompts and not findings.study.search:
        declared = f"is the best of {prompts} that were" if prompts > 1 else "is the only one that was"
        lines.append(
            f"The best prompt {declared} declared. No search looked for a better one (study.prompt_search)."
        )
    lines += filter(None, [search_sentence(trials(findings)), budget_sentence(findings)])
    for pair in findings.pairs:
        if pair.verdict == "unresolved":
            a = findings.title(pair.a) + at_budget(findings.budget(pair.a, pair.b), " ")
            apart = f"{a} and {findings.title(pair.b)} cannot be told apart"
            seen = f"the difference seen ({points(pair.difference.estimate)} points) is the true one"
            would = would_tell(pair, "problems")
            lines.append(f"{apart}{f': {would} would tell, if {seen}' if would else ''}.")
    continued = {
        name
        for result in findings.results
        if result.arm.method not in ("prompt", "rejection") and not result.arm.rewarded
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
        named = [(getattr(result.score, name), result.title) for result in findings.results]
        listed = [f"{title} {percent(share)}" for share, title in named if share >= NOTABLE]
        if len(listed) > NAMED:
            most, title = max(named)
            listed = [f"{len(listed)} of {len(named)} arms, most of {title} ({percent(most)})"]
        lines += [f"{what}: {', '.join(listed)}."] if listed else []
    lines += [
        f"{arm.title} has no result ({why})." for arm in findings.study.arms if (why := lost(findings, arm))
    ]
    lines += _flagged(findings)
    return [sentence(line) for line in lines] + list(findings.comparison.notes if findings.comparison else ())


def _flagged(findings: Findings) -> list[str]:
    """The runs whose reward rose while the independent verdict did not."""
    lines = []
    for arm in findings.study.arms:
        for seed, run in arm.runs.items():
            steps = [step for step, flag in zip(*run.series("flagged"), strict=True) if flag]
            if steps:
                which = f", seed {seed}," if len(arm.runs) > 1 else ""
                lines.append(
                    f"The reward of {arm.title}{which} rose while exact match did not (from step "
                    f"{steps[0]:.0f} on, in {len(steps):,} steps): it paid for something else. "
                    "The verbs rollouts and audit show for what."
                )
    return lines


def _seed_limits(findings: Findings) -> str:
    seeds = findings.study.seeds
    if seeds == 1:
        return (
            f"Each arm is one run, with seed {findings.study.seed}. The variance between seeds was not "
            "measured, so a difference speaks of these runs and not yet of the methods."
        )
    if seeds < ENOUGH:
        return (
            f"Each trained arm has {seeds} runs, which are too few to measure the variance between seeds. "
            "A difference speaks of these runs and not yet of the methods."
        )
    return (
        f"Intervals and tests cover the choice of problems and the {seeds} seeds of each trained arm. "
        "They do not cover other models, data or settings."
    )


def budget_sentence(findings: Findings) -> str:
    """Whether arms had equal budgets, and where they stand at one; empty without measured operations."""
    common = frontier(findings)
    if len(common) < 2 or not any(one.dev for one in common):
        return ""
    return (
        "Arms are shown at their own budgets. The table of costs has their accuracy on dev at the smallest "
        f"common one, {min(one.flops for one in common):.2g} operations."
    )
