"""Simulate studies: coverage of intervals over problems and seeds, stated power, and false claims.

A false claim is a sentence on a difference in a study without any.

    python benchmarks/seeds.py                           half an hour on one core
    python benchmarks/seeds.py false_positives           a part: false_positives, reach, power or coverage

What is asked for is written into benchmarks/results/seeds.json beside the rest.

A run solves a problem where ability + seed effect + luck is above 0. Ability belongs to the problem and is
shared by all arms, the seed effect to a run, luck to a run on a problem. In a null study all arms have the
same distribution; its sentences are those that `reckon study` would print.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from reckoner.analysis.findings import compared
from reckoner.analysis.mistakes import Profile
from reckoner.analysis.reach import reach, reach_sentences
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.seeds import (
    accuracy_interval,
    assumed_noise,
    noise,
    seed_difference,
    seed_power,
    wilson_effective,
)
from reckoner.analysis.sentences import verdict
from reckoner.analysis.study_records import ArmRecord, RunRecord, Study
from reckoner.runs.documents import Evaluation
from reckoner.runs.records import Completion, Grade, Problem, read_json, write_json

OUTPUT = Path(__file__).parent / "results" / "seeds.json"
ABILITY, LUCK, FORMAT = 1.5, 0.7, 0.95
"""Standard deviations of ability and luck, and the share of right answers that keep the format."""

BOOTSTRAPPED = 20
"""The bootstrap takes as long as 20 of the other intervals together, and is made for one study in as many."""

Grid = NDArray[np.bool_]


def draw(rng: np.random.Generator, ability: NDArray[np.float64], seeds: int, effect: float) -> Grid:
    """What `seeds` runs of one arm solve; [seeds, n]. Seed effects have the standard deviation `effect`."""
    each = effect * rng.standard_normal((seeds, 1))
    return ability + each + LUCK * rng.standard_normal((seeds, ability.size)) > 0


def bootstrap(rng: np.random.Generator, scores: Grid, draws: int = 400) -> tuple[float, float]:
    """The hierarchical percentile bootstrap over seeds and items that `accuracy_interval` replaces."""
    seeds, n = scores.shape
    rows, columns = (rng.multinomial(size, [1 / size] * size, draws) for size in (seeds, n))  # how often each
    low, high = np.quantile(((rows @ scores) * columns).sum(axis=1) / (seeds * n), [0.025, 0.975])
    return float(low), float(high)


def others(scores: Grid) -> dict[str, tuple[float, float]]:
    """Intervals of an accuracy that were tried beside `accuracy_interval`."""
    seeds, n = scores.shape
    mean, parts = float(scores.mean()), noise(scores)
    if not parts.variance:
        return {}
    effective = mean * (1 - mean) / parts.variance
    freedom = parts.variance**2 / (parts.items**2 / (n - 1) + parts.seeds**2 / (seeds - 1))
    return {
        "luck among the runs": wilson_effective(mean, effective, parts.quantile()),
        "Satterthwaite": wilson_effective(mean, effective, float(t.ppf(0.975, freedom))),
    }


def coverage(rng: np.random.Generator, repeats: int) -> list[dict[str, Any]]:
    """Per cent of intervals that hold the truth, for accuracies and for differences of two equal arms."""
    rows = []
    for n, seeds, effect, level in product((100, 400), (3, 5), (0.0, 0.05, 0.15, 0.4), (0.0, 1.5, 2.6)):
        held = Counter[str]()
        truth = norm.cdf(level / np.sqrt(ABILITY**2 + LUCK**2 + effect**2))
        stds = []
        for at in range(repeats):
            ability = level + ABILITY * rng.standard_normal(n)
            a, b = (draw(rng, ability, seeds, effect) for _ in range(2))
            gap = seed_difference(a, b)
            held["difference"] += gap.low <= 0 <= gap.high
            intervals = {"accuracy": accuracy_interval(a), **others(a)}
            held.update(name for name, (low, high) in intervals.items() if low <= truth <= high)
            if at % BOOTSTRAPPED == 0:
                low, high = bootstrap(rng, a)
                held["bootstrap"] += BOOTSTRAPPED * (low <= truth <= high)
            stds.append(a.mean(axis=1).std(ddof=1))
        design = {"n": n, "seeds": seeds, "std of the runs, points": round(100 * float(np.mean(stds)), 2)}
        design |= {"accuracy of the arm": round(100 * float(truth), 1)}
        shares = {name: round(100 * float(count) / repeats, 1) for name, count in sorted(held.items())}
        rows.append(design | shares | {"repeats": repeats})
        print(rows[-1], flush=True)
    return rows


def power(rng: np.random.Generator, repeats: int) -> list[dict[str, Any]]:
    """The stated power beside that of simulated studies with the assumed noise, in per cent."""
    rows = []
    for n, seeds, gap, effect in (
        (400, 3, 0.05, 0.01),
        (400, 5, 0.05, 0.01),
        (1319, 3, 0.05, 0.02),
        (1319, 5, 0.03, 0.01),
        (1319, 10, 0.02, 0.01),
    ):
        expected = assumed_noise(n, seeds, 0.2, effect)
        found = 0
        for _ in range(repeats):
            items = rng.normal(gap, np.sqrt(0.1), n) + rng.normal(0, np.sqrt(0.1), (seeds, n))
            grid = items + rng.normal(0, effect * np.sqrt(2), (seeds, 1))
            found += noise(grid).p_value(float(grid.mean())) < 0.05
        rows.append(
            {"n": n, "seeds": seeds, "difference": gap, "seed std": effect}
            | {"stated": round(100 * seed_power(gap, expected), 1), "found": round(100 * found / repeats, 1)}
        )
        print(rows[-1], flush=True)
    return rows


ARMS = {  # name: (method, starts from, control of)
    "asked": ("prompt", "", ""),
    "asked-again": ("prompt", "", ""),
    "sft": ("sft", "", ""),
    "lora": ("sft", "", ""),
    "grpo": ("grpo", "sft", ""),
    "ppo": ("ppo", "sft", ""),
    "grpo-more-sft": ("sft", "sft", "grpo"),
    "grpo-rejection": ("rejection", "sft", "grpo"),
    "grpo-coin": ("grpo", "sft", "grpo"),
}
PAIRS = (
    *((name, "asked") for name in ("sft", "lora", "grpo", "ppo")),
    *(("grpo", "sft"), ("ppo", "sft"), ("lora", "sft"), ("ppo", "grpo")),
)
CLAIMS = {
    "the headline: training beats the best prompt": r"problems(, on average over \d+ seeds)?; the best",
    "trained arms beat the best prompt": r"\bbeats?\b the best prompt",
    "trained arms are worse than the best prompt": r"worse than (the best prompt|it\b)",
    "reinforcement learning gains": r"gains?:",
    "an arm is better or worse than another": r"\b(better|worse) than (?!the best prompt|it\b)",
    "the reward itself added or cost something": r"(added|cost) something",
    "a reward without a gold gained something": r"\(coin\): [^()]* points \([^()]*\)\.",
}
"""What a sentence claims, and how it is found in the text of a verdict."""


def run_record(name: str, split: Sequence[str]) -> RunRecord:
    counts = dict.fromkeys(("n", "strict", "flexible", "no_answer", "truncated", "multi_marker", "tokens"), 1)
    evaluations = tuple(
        Evaluation(
            split=one,
            prompt="0shot",
            prompt_hash=name if name.startswith("asked") else "hash",
            **counts,
            seconds=1.0,
            decoding="greedy",
            max_new_tokens=9,
            predictions="p",
            grades="g",
            problems="q",
        )
        for one in split
    )
    return RunRecord(name, Path(name), "main", "reckoner-2", evaluations, None, (), "", {}, {}, {})


def graded(key: tuple[str, int], right: bool, form: bool) -> Grade:
    """The grade of one answer, whose format is forgiven by the flexible reading."""
    verdict = "correct" if right and form else "wrong"
    return Grade(*key, bool(right and form), bool(right), "1", "1", verdict, 1)


def null_study(rng: np.random.Generator, n: int, seeds: int, effect: float) -> str:
    """The verdict of a study in which no arm differs from another."""
    ability = ABILITY * rng.standard_normal(n)
    names = [f"p{i}" for i in range(n)]
    problems = {name: Problem(name, "q", "#### 1", "1", "main", "simulated") for name in names}
    texts = {(name, 0): Completion(name, 0, "", "", 1, "stop", 0.0, "") for name in names}
    sources: dict[str, dict[int, CompletionSet]] = {}
    for name, (method, _, _) in ARMS.items():
        runs = 1 if method == "prompt" else seeds
        solved = draw(rng, ability, runs, effect if runs > 1 else 0.0)
        kept = rng.random(solved.shape) < FORMAT
        sources[name] = {
            seed: CompletionSet(
                f"{name}@{seed}",
                {
                    key: graded(key, *marks)
                    for key, *marks in zip(texts, solved[seed], kept[seed], strict=True)
                },
                "reckoner-2",
                "test",
                texts,
                problems,
            )
            for seed in range(runs)
        }
    arms = tuple(
        ArmRecord(
            name=name,
            title=f"{name} (coin)" if "coin" in name else name,
            method=method,
            rewarded=method in ("grpo", "ppo"),
            state="done",
            reason="",
            after=(start,) if start else (),
            runs={seed: run_record(name, ["dev", "test"]) for seed in sources[name]},
            seeds=len(sources[name]),
            control_of=control,
        )
        for name, (method, start, control) in ARMS.items()
    )
    study = Study(Path("s"), "simulated", "", 0, "", "", arms, PAIRS, arms[0])
    findings = compared(study, sources)
    empty = Profile("", n, 0, 0, 0, (), {})
    findings.__dict__["profiles"] = [replace(empty) for _ in findings.results]
    return " ".join(verdict(findings))


def false_positives(rng: np.random.Generator, studies: int) -> list[dict[str, Any]]:
    """Per cent of null studies whose text holds each claim, for one seed and for several."""
    rows = []
    for n, seeds, effect in ((100, 1, 0.0), (100, 3, 0.1)):
        claimed = Counter[str]()
        for _ in range(studies):
            text = null_study(rng, n, seeds, effect)
            claimed.update(claim for claim, form in CLAIMS.items() if re.search(form, text))
        rows.append(
            {"n": n, "seeds": seeds, "seed effect": effect, "studies": studies}
            | {claim: round(100 * claimed[claim] / studies, 1) for claim in CLAIMS}
        )
        print(rows[-1], flush=True)
    return rows


REACH_CLAIMS = {
    "reinforcement learning expanded": r"\bexpanded: it solves more",
    "reinforcement learning sharpened": r"\bsharpened: better at k = 1",
    "reinforcement learning narrowed": r"\bnarrowed: it solves fewer",
}


def sampled(
    rng: np.random.Generator, name: str, ability: NDArray[np.float64], effect: float, samples: int
) -> CompletionSet:
    """The answers of one run in `samples` tries a problem.

    What luck decides in `draw` is a part of the run (half its variance) and a part of the single try.
    """
    part = LUCK / np.sqrt(2)
    level = ability + effect * rng.standard_normal() + part * rng.standard_normal(ability.size)
    right = level[:, None] + part * rng.standard_normal((ability.size, samples)) > 0
    tries = (((f"p{problem}", sample), bool(one)) for (problem, sample), one in np.ndenumerate(right))
    return CompletionSet(name, {key: graded(key, one, True) for key, one in tries})


def reaches(rng: np.random.Generator, studies: int) -> list[dict[str, Any]]:
    """Per cent of null studies that claim anything of what two RL arms reach in several tries.

    The end of an arm has the distribution of its start, which all its runs share or which has as many runs.
    """
    rows = []
    for n, samples, starts, seeds, effect in ((100, 8, 1, 1, 0.0), (100, 8, 3, 3, 0.1), (40, 32, 3, 3, 0.1)):
        claimed = Counter[str]()
        for _ in range(studies):
            ability = ABILITY * rng.standard_normal(n) - ABILITY
            start = [sampled(rng, "sft", ability, effect, samples) for _ in range(starts)]
            arms = [
                [sampled(rng, arm, ability, effect, samples) for _ in range(seeds)] for arm in ("grpo", "ppo")
            ]
            text = " ".join(reach_sentences([reach(start, arm) for arm in arms]))
            claimed.update(claim for claim, form in REACH_CLAIMS.items() if re.search(form, text))
        rows.append(
            {"n": n, "samples": samples, "seeds": seeds, "seed effect": effect, "studies": studies}
            | {claim: round(100 * claimed[claim] / studies, 1) for claim in REACH_CLAIMS}
        )
        print(rows[-1], flush=True)
    return rows


PARTS = {"false_positives": false_positives, "reach": reaches, "power": power, "coverage": coverage}


def main() -> None:
    """Simulate the parts that are asked for and store them beside the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--repeats", type=int, help="simulations of a design; default: 1000 studies, else 4000"
    )
    parser.add_argument("--out", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    result = read_json(arguments.out, missing={})
    for part in arguments.parts:
        repeats = arguments.repeats or (1000 if part in ("false_positives", "reach") else 4000)
        result[part] = PARTS[part](np.random.default_rng(26), repeats)
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
