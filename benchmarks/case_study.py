"""Everything that docs/case-study.md says about four OpenAI models on GSM8K, and its pictures.

    python benchmarks/case_study.py FILE  FILE is example_model_solutions.jsonl of openai/grade-school-math

Writes benchmarks/results/case_study.json and docs/figures/case-study-*.svg. One core, under a minute, no
torch. The final line `A: N` of a completion is read as `#### N`.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np

from reckoner.analysis.canvas import HUES, INK, MUTED, Mark, Picture, drawing, finish, panels, standalone
from reckoner.analysis.compare import compare
from reckoner.analysis.intervals import wilson
from reckoner.analysis.mistakes import KINDS, profile, step_count
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.statistics import holm, mcnemar, paired_difference
from reckoner.runs.records import Completion, Problem, read_json_lines
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.answers.number import GRADER, extract_gold, read
from reckoner.tasks.arithmetic import check_steps

ROOT = Path(__file__).parent.parent
RESULTS, FIGURES = ROOT / "benchmarks" / "results" / "case_study.json", ROOT / "docs" / "figures"
MODELS = {
    "6b_finetuning": "6B",
    "6b_verification": "6B + verifier",
    "175b_finetuning": "175B",
    "175b_verification": "175B + verifier",
}
LOOKS = dict(zip(MODELS, map(Mark, HUES, "os^D"), strict=False))
SMALL, LARGE = "6b_verification", "175b_finetuning"
DRAWS = 20_000


def marked(text: str) -> str:
    """`A: N` at the end as `#### N`."""
    body, line, answer = text.rpartition("\nA: ")
    return f"{body}\n#### {answer}" if line else text


def load(path: Path) -> tuple[list[CompletionSet], dict[str, dict[str, bool]]]:
    """The four models as sources, and the labels published with them by model and problem."""
    problems: dict[str, Problem] = {}
    completions: dict[str, dict[tuple[str, int], Completion]] = {name: {} for name in MODELS}
    labels: dict[str, dict[str, bool]] = {name: {} for name in MODELS}
    for number, row in read_json_lines(path):
        key, solution = f"test-{number - 1}", marked(row["ground_truth"])
        problems[key] = Problem(key, row["question"], solution, extract_gold(solution), "main", "gsm8k")
        for name in MODELS:
            completions[name][key, 0] = Completion(
                key, 0, "", marked(row[name]["solution"]), 0, "stop", 0.0, name
            )
            labels[name][key] = row[name]["is_correct"]
    return [
        CompletionSet(
            name,
            {key: grade(c, problems[key[0]]) for key, c in texts.items()},
            GRADER,
            "test",
            texts,
            problems,
        )
        for name, texts in completions.items()
    ], labels


def right(source: CompletionSet) -> dict[str, bool]:
    """Is each problem solved?"""
    return {problem: found.strict for (problem, _), found in source.grades.items()}


def group_of(problem: Problem) -> str:
    """Problems by calculations in the reference; the few with none or one, or with many, go together."""
    steps = step_count(problem)
    return "0 or 1" if steps <= 1 else "6 or more" if steps >= 6 else str(steps)


def by_steps(sources: Mapping[str, CompletionSet], a: str, b: str) -> dict:
    """Accuracy of all models, and the paired difference a - b, by calculations in the reference."""
    problems = sources[a].problems
    places = {name: group_of(problem) for name, problem in problems.items()}
    groups = sorted(set(places.values()))
    counts = {
        name: {
            group: [
                sum(solved for key, solved in right(source).items() if places[key] == group),
                list(places.values()).count(group),
            ]
            for group in groups
        }
        for name, source in sources.items()
    }
    gaps = {}
    for group in groups:
        chosen = [key for key in problems if places[key] == group]
        gaps[group] = paired_difference(*([right(sources[name])[key] for key in chosen] for name in (a, b)))
    adjusted = holm([gap.p for gap in gaps.values()])
    others = [key for key in problems if places[key] != "2"]
    return {
        "others_than_2": asdict(
            paired_difference(*([right(sources[name])[key] for key in others] for name in (a, b)))
        ),
        "counts": counts,
        "pair": [a, b],
        "differences": {
            group: {**asdict(gap), "p_holm": p}
            for (group, gap), p in zip(gaps.items(), adjusted, strict=True)
        },
        "trend": trend(sources, a, b),
    }


def trend(sources: Mapping[str, CompletionSet], a: str, b: str) -> dict:
    """Does the difference a - b change with the number of calculations? Slope in points a calculation,
    permutation p."""
    problems = sources[a].problems
    gap = np.array([float(right(sources[a])[key]) - right(sources[b])[key] for key in problems])
    steps = np.array([float(step_count(problem)) for problem in problems.values()])
    centred = steps - steps.mean()
    slope = float(centred @ gap / (centred @ centred))
    generator = np.random.default_rng(0)
    drawn = np.array([centred @ generator.permutation(gap) for _ in range(DRAWS)])
    return {
        "points_a_calculation": 100 * slope,
        "p": float(1 + (np.abs(drawn) >= abs(centred @ gap) - 1e-9).sum()) / (1 + DRAWS),
        "draws": DRAWS,
    }


def small_samples(sources: Mapping[str, CompletionSet], a: str, b: str) -> dict:
    """How often a random subset of the problems would not show the order that all of them show, or not find
    it."""
    gap = np.array([int(right(sources[a])[key]) - int(right(sources[b])[key]) for key in sources[a].problems])
    generator, found = np.random.default_rng(0), {}
    for n in (100, 256, 512):
        taken = [gap[generator.choice(gap.size, n, replace=False)] for _ in range(DRAWS)]
        counts = [(int((part > 0).sum()), int((part < 0).sum())) for part in taken]
        found[n] = {
            "reversed_or_tied": sum(won <= lost for won, lost in counts) / DRAWS,
            "p_below_0.05": sum(mcnemar(won, lost) < 0.05 for won, lost in counts) / DRAWS,
        }
    return found


def kinds(sources: Mapping[str, CompletionSet]) -> dict:
    """Errors of each model by kind, and how far two models' shares of kinds lie apart (total variation)."""
    profiles = {name: profile(source) for name, source in sources.items()}
    shares = {name: {kind.kind: kind.share for kind in found.kinds} for name, found in profiles.items()}
    apart = {
        f"{a}, {b}": sum(abs(shares[a].get(kind, 0) - shares[b].get(kind, 0)) for kind in KINDS) / 2
        for a, b in combinations(shares, 2)
    }
    return {
        "profiles": {
            name: {
                "wrong": found.wrong,
                "slips": found.slips,
                "lucky": found.lucky,
                "kinds": {
                    kind.kind: {"count": kind.count, "share": kind.share, "low": kind.low, "high": kind.high}
                    for kind in found.kinds
                },
                "examples": {
                    kind.kind: [[example.problem_id, example.detail] for example in kind.examples]
                    for kind in found.kinds
                },
            }
            for name, found in profiles.items()
        },
        "total_variation": apart,
    }


def answer_lines(sources: Mapping[str, CompletionSet]) -> dict:
    """Answer lines that stop where the number before them has a comma or a decimal point: `129,200` and then
    `A: 129`."""
    found = {}
    for name, source in sources.items():
        cut = []
        lines = [c.text.rpartition("#### ") for c in source.completions.values() if "\n#### " in c.text]
        for (key, _), completion in source.completions.items():
            body, _, line = completion.text.rpartition("\n#### ")
            last = read(body).flexible
            whole = "" if last is None or not body else f"{float(last):,}".removesuffix(".0")
            if line.strip().isdigit() and whole.startswith((f"{line.strip()},", f"{line.strip()}.")):
                problem = source.problems[key]
                solved, full = (
                    source.grades[key, 0].strict,
                    grade(Completion(key, 0, "", f"#### {last}", 0, "stop", 0.0, ""), problem).strict,
                )
                cut.append(
                    {
                        "problem": key,
                        "text": whole,
                        "line": line.strip(),
                        "gold": problem.gold,
                        "label": solved,
                        "text_right": full,
                    }
                )
        found[name] = {
            "with_point": sum("." in line for _, _, line in lines),
            "with_comma": sum("," in line for _, _, line in lines),
            "cut_at_comma": [case for case in cut if case["text"][len(case["line"])] == ","],
            "cut_at_point": [case for case in cut if case["text"][len(case["line"])] == "."],
        }
    return found


def agreement(sources: Sequence[CompletionSet]) -> dict:
    """Problems solved by all, by any, by none, and those where all give one and the same wrong answer."""
    solved = [right(source) for source in sources]
    problems = sources[0].problems
    answers = {key: [source.grades[key, 0].strict_value for source in sources] for key in problems}
    alike = {
        key: values[0]
        for key, values in answers.items()
        if len(set(values)) == 1 and values[0] and not solved[0][key]
    }
    return {
        "all": sum(all(one[key] for one in solved) for key in problems),
        "any": sum(any(one[key] for one in solved) for key in problems),
        "same_wrong_answer": {
            key: {"answer": value, "gold": problems[key].gold} for key, value in alike.items()
        },
    }


def references(problems: Mapping[str, Problem]) -> dict:
    """Calculations in the reference solutions, and the false ones among them."""
    steps = {key: check_steps(problem.solution) for key, problem in problems.items()}
    false = {
        key: [f"{step.expression} = {step.written}" for step in found if step.slip]
        for key, found in steps.items()
    }
    return {
        "annotated": sum(step.annotated for found in steps.values() for step in found),
        "plain": sum(not step.annotated for found in steps.values() for step in found),
        "false": {key: found for key, found in false.items() if found},
        "calculations": dict(sorted(Counter(map(step_count, problems.values())).items())),
    }


def draw_steps(found: dict) -> Picture:
    """Accuracy of the four models by calculations in the reference."""
    lead = 100 * found["differences"]["2"]["estimate"]
    title = (
        f"With 2 calculations 6B + verifier leads 175B by {lead:.1f} points; from 3 on no lead can be shown"
    )
    figure, (axes,) = panels(title, [260])
    groups = list(found["counts"][SMALL])[1:]
    for shift, (name, looks) in enumerate(LOOKS.items()):
        x = np.arange(len(groups)) + 0.06 * (shift - 1.5)
        counts = [found["counts"][name][group] for group in groups]
        low, high = np.array([wilson(k, n) for k, n in counts]).T
        axes.vlines(x, 100 * low, 100 * high, color=looks.colour, alpha=0.35, linewidth=2)
        axes.plot(
            x,
            [100 * k / n for k, n in counts],
            color=looks.colour,
            marker=looks.marker,
            markersize=5,
            label=MODELS[name],
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_xlabel("calculations in the reference solution")
    axes.set_ylabel("solved, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK)
    return finish(figure, "case-study-steps", title, "Wilson 95 % intervals.")


def draw_differences(found: dict) -> Picture:
    """Paired differences by calculations in the reference."""
    groups = list(found["differences"])
    title = "The lead of 6B + verifier over 175B is in the problems of two calculations"
    figure, (axes,) = panels(title, [30 * len(groups) + 50])
    for row, group in enumerate(groups):
        gap = found["differences"][group]
        colour = HUES[0] if gap["p_holm"] < 0.05 else MUTED
        axes.plot([100 * gap["low"], 100 * gap["high"]], [row, row], color=colour, linewidth=2.4, alpha=0.5)
        axes.plot(100 * gap["estimate"], row, "o", color=colour, markersize=7)
    axes.axvline(0, color=MUTED, linewidth=1)
    axes.set_yticks(
        range(len(groups)),
        [f"{group}  (n = {found['differences'][group]['n']})" for group in groups],
        color=INK,
    )
    axes.set_ylim(len(groups) - 0.45, -0.55)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.set_xlabel("6B + verifier minus 175B, points")
    axes.set_ylabel("calculations")
    return finish(
        figure, "case-study-differences", title, "Bonett-Price 95 % intervals; blue where Holm p < 0.05."
    )


def draw_kinds(found: dict) -> Picture:
    """Shares of the kinds of error, four models side by side."""
    shown = [
        kind
        for kind in KINDS
        if any(p["kinds"].get(kind, {"share": 0})["share"] >= 0.02 for p in found["profiles"].values())
    ]
    shown.sort(key=lambda kind: -found["profiles"][SMALL]["kinds"].get(kind, {"share": 0})["share"])
    title = "Four models make the same kinds of error in nearly the same shares"
    figure, (axes,) = panels(title, [44 * len(shown) + 60])
    for shift, (name, looks) in enumerate(LOOKS.items()):
        for row, kind in enumerate(shown):
            cell = found["profiles"][name]["kinds"].get(kind)
            if cell:
                y = row + 0.17 * (shift - 1.5)
                axes.plot(
                    [100 * cell["low"], 100 * cell["high"]],
                    [y, y],
                    color=looks.colour,
                    alpha=0.4,
                    linewidth=2,
                )
                axes.plot(
                    100 * cell["share"],
                    y,
                    looks.marker,
                    color=looks.colour,
                    markersize=5,
                    label=MODELS[name] if not row else None,
                )
    axes.set_yticks(range(len(shown)), [KINDS[kind].title for kind in shown], color=INK)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.grid(True, axis="x")
    axes.set_xlim(0, 62)
    axes.set_xlabel("share of the model's wrong answers, %")
    axes.legend(frameon=False, loc="lower right", labelcolor=INK)
    return finish(
        figure, "case-study-kinds", title, "Wilson 95 % intervals; kinds of at least 2 % in some model."
    )


def study(path: Path) -> dict:
    """All results as plain JSON values."""
    sources, labels = load(path)
    named = {source.name: source for source in sources}
    agree = sum(
        solved == labels[source.name][key] for source in sources for key, solved in right(source).items()
    )
    return {
        "grader": GRADER,
        "labels": {"agree": agree, "of": sum(map(len, labels.values()))},
        "comparison": asdict(compare(sources)),
        "steps": by_steps(named, SMALL, LARGE),
        "small_samples": small_samples(named, SMALL, LARGE),
        "kinds": kinds(named),
        "answer_lines": answer_lines(named),
        "agreement": agreement(sources),
        "references": references(sources[0].problems),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path)
    found = study(parser.parse_args().file)
    RESULTS.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="ascii")
    with drawing():
        for picture in (
            draw_steps(found["steps"]),
            draw_differences(found["steps"]),
            draw_kinds(found["kinds"]),
        ):
            (FIGURES / f"{picture.name}.svg").write_text(standalone(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
