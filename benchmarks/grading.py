"""Measure the grader: agreement with labels, latency, robustness and throughput. One core, no torch.

    python benchmarks/grading.py --gsm8k FOLDER --cases FILE

FOLDER holds GSM8K's `train.jsonl`, `test.jsonl`, `test_socratic.jsonl` and OpenAI's
`example_model_solutions.jsonl`; FILE is the corpus of extraction cases. Times are processor seconds. Writes
benchmarks/results/grading.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import re
import resource
import tempfile
import time
from datetime import date
from pathlib import Path

from reckoner.analysis.grade import grade_file
from reckoner.tasks.answers.number import GRADER, extract_gold, grade_text
from reckoner.tasks.answers.other_graders import GRADERS
from reckoner.tasks.arithmetic import check_steps, evaluate

MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
CORPUS_NAMES = dict(
    zip(GRADERS, ["official", "lm_strict", "lm_flex", "verl_strict", "verl_flex", "seed_hw12"], strict=True)
)
FRAGMENTS = [
    "####",
    " ",
    "\n",
    "5",
    "42",
    "1,000",
    ".",
    "-",
    "$",
    "<<1+1=2>>",
    "apples ",
    "=",
    "\u00a0",
    "\ud800",
    "\0",
    "½",
    "million",
    "or",
    "x",
    "1e9",
    "{,}",
    "\\boxed{",
    "%",
    "</s>",
    "٣",
    "９",
    "/",
]
HOSTILE = [
    "1",
    "#",
    "#### ",
    "<<",
    "<<1=1>>",
    "1,234,",
    "1\u00a0111",
    "1,11",
    "- ",
    "$",
    "\\boxed{",
    "1e5",
    "(",
    "\nQ",
    "<|",
    "1 000 ",
    "CO2 ",
    "-1",
    "\u200b",
    " hundred",
]
REASONING = (
    "Each of the 12 boxes holds 8 pens, so there are 12*8 = <<12*8=96>>96 pens. Of these 45 "
    "are given away and 2 are lost, "
)
REASONING = (
    REASONING
    + "which leaves 96-45-2 = <<96-45-2=49>>49 pens. "
    + "They are then put back into the boxes with care. " * 3
    + "\n"
)


def seconds(text: str) -> float:
    start = time.process_time()
    grade_text(text, "42")
    return time.process_time() - start


def read(path: Path) -> list[dict]:
    with open(path, encoding="utf8") as file:
        return [json.loads(line) for line in file]


def agreement(folder: Path, cases: Path) -> dict[str, str]:
    """Shares as "right/all": the corpus, OpenAI's labels, gold answers, annotations."""
    test = read(folder / "test.jsonl")
    solutions = read(folder / "example_model_solutions.jsonl")
    labelled = [
        (extract_gold(row["answer"]), models[name])
        for row, models in zip(test, solutions, strict=True)
        for name in MODELS
    ]
    labels = sum(
        grade_text(re.sub(r"(?:\A|\n)A:(?=[^\n]*\Z)", "\n####", row["solution"]), gold).strict
        == row["is_correct"]
        for gold, row in labelled
    )
    answers = [
        row["answer"] for name in ("train", "test", "test_socratic") for row in read(folder / f"{name}.jsonl")
    ]
    golds = [grade_text(answer, extract_gold(answer)) for answer in answers]
    steps = [
        step
        for name in ("train", "test")
        for row in read(folder / f"{name}.jsonl")
        for step in check_steps(row["answer"])
        if step.annotated
    ]
    corpus = read(cases)
    fields = ("strict", "flexible", "strict_value", "flexible_value")
    ours = sum(
        all(getattr(grade_text(case["completion"], case["gold"]), name) == case[name] for name in fields)
        for case in corpus
    )
    theirs = sum(
        grader(case["completion"], case["gold"]) == case["others"][CORPUS_NAMES[name]]
        for name, grader in GRADERS.items()
        for case in corpus
    )
    return {
        "corpus": f"{ours}/{len(corpus)}",
        "corpus, other graders": f"{theirs}/{len(GRADERS) * len(corpus)}",
        "labelled completions": f"{labels}/{len(labelled)}",
        "gold answers, strict and flexible": f"{sum(g.strict and g.flexible for g in golds)}/{len(golds)}",
        "gold annotations right": f"{sum(step.right for step in steps)}/{len(steps)}",
    }


def latency() -> dict[str, float]:
    """Microseconds for 2,000 characters, and the worst of 3 x 20 hostile texts of 200,000 characters in
    seconds."""
    draw = random.Random(0)
    short = sorted(seconds("".join(draw.choices(FRAGMENTS, k=700))[:2_000]) for _ in range(5_000))
    long = [
        min(seconds(before + (unit * 200_000)[:200_000]) for _ in range(3))
        for unit in HOSTILE
        for before in ("", "#### ", "#### 1")
    ]
    expressions = [
        "".join(draw.choices("0123456789+-*/()%. x", k=draw.randint(1, 100))) for _ in range(10_000)
    ]
    slowest = 0.0
    for text in expressions:
        start = time.process_time()
        evaluate(text)
        slowest = max(slowest, time.process_time() - start)
    return {
        "2,000 characters, median, microseconds": round(short[2_500] * 1e6),
        "2,000 characters, p99, microseconds": round(short[4_950] * 1e6),
        "200,000 hostile characters, worst, seconds": round(max(long), 3),
        "10,000 fuzzed expressions, worst, microseconds": round(slowest * 1e6),
    }


def fuzz(count: int) -> int:
    """Grade `count` random strings and byte strings; returns how many got a verdict, which is all unless it
    raises."""
    draw = random.Random(1)
    for number in range(count):
        text = (
            draw.randbytes(draw.randint(0, 60))
            if number % 2
            else "".join(draw.choices(FRAGMENTS, k=draw.randint(0, 20)))
        )
        grade_text(text, "42")
    return count


def throughput(count: int) -> dict[str, float]:
    """Lines a second through `grade_file`, JSON included, and the peak memory of the process before and
    after."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "in.jsonl")
        with open(source, "w") as file:
            for number in range(count):
                file.write(
                    json.dumps({"id": number, "completion": f"{REASONING}#### {number % 90}", "gold": "49"})
                    + "\n"
                )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        grade_file(source, Path(folder, "out.jsonl"))
        spent = time.process_time() - start
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "lines": count,
        "characters a completion": len(REASONING) + 7,
        "lines a second": round(count / spent),
        "peak memory grew by, MB": round(grown / 1024, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gsm8k", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--cases", type=Path, required=True, metavar="FILE")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--strings", type=int, default=1_000_000)
    options = parser.parse_args()
    results = {
        "grader": GRADER,
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "throughput": throughput(options.lines),
        "latency": latency(),
        "random strings without an exception": fuzz(options.strings),
        "agreement": agreement(options.gsm8k, options.cases),
    }
    text = json.dumps(results, indent=2) + "\n"
    (Path(__file__).parent / "results" / "grading.json").write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
