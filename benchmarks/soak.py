"""What grows in a process that runs hundreds of study arms, and with files of a million lines.

    python benchmarks/soak.py    200 arms in one process, predictions of 1,000,000 lines, 1 GB of problems
    python benchmarks/soak.py --arms 40 --lines 0

The arms are those of `torture.py`. After each study: resident memory, open files, threads; what a garbage
collection and `malloc_trim` would give back is measured once at the end, to tell a leak from memory that the
allocator keeps. Growth is the median of the last fifth of the studies less that of the second fifth.

Each work on a large file runs in a fork; its memory is the largest resident size in it, less that at its
start.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torture import finish, kinds, start, tiny_model

from reckoner.analysis.grade import grade_file
from reckoner.evaluation.evaluate import whole_pieces
from reckoner.machine import environment, peak_memory_bytes
from reckoner.runs.records import Completion, Problem, dumps, read_records
from reckoner.tasks import gsm8k

RESULT = Path(__file__).parent / "results" / "soak.json"
ARMS_OF_A_STUDY = 5
SAMPLES = 4


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def soak(arms: int, place: Path) -> dict[str, Any]:
    """Run studies one after another in this process, and watch it."""
    folder = place / "study"
    study = kinds(tiny_model(place / "tiny"), folder)["study"]
    memory, files, threads = [], [], []
    for _ in range(arms // ARMS_OF_A_STUDY):
        study()
        shutil.rmtree(folder)
        memory.append(resident())
        files.append(len(os.listdir("/proc/self/fd")))
        threads.append(len(os.listdir("/proc/self/task")))
    before = resident()
    gc.collect()
    collected = resident()
    ctypes.CDLL(None).malloc_trim(0)
    fifth = max(1, len(memory) // 5)
    growth = statistics.median(memory[-fifth:]) - statistics.median(memory[fifth : 2 * fifth] or memory)
    return {
        "arms": arms,
        "memory_mb": [round(value / 1e6, 1) for value in memory],
        "growth_mb": round(growth / 1e6, 1),
        "open_files": [min(files), max(files)],
        "threads": [min(threads), max(threads)],
        "given_back_by_gc_mb": round((before - collected) / 1e6, 1),
        "given_back_by_malloc_trim_mb": round((collected - resident()) / 1e6, 1),
    }


def measured(work: Callable[[], object], place: Path) -> dict[str, float]:
    """Seconds and additional memory of `work` in a fork."""
    report = place / "measured.json"

    def watched() -> None:
        before, began = peak_memory_bytes(reset=True), time.perf_counter()
        before = resident()
        work()
        used = peak_memory_bytes() - before
        report.write_text(
            json.dumps({"seconds": round(time.perf_counter() - began, 2), "memory_mb": round(used / 1e6, 1)})
        )

    finish(start(watched))
    return json.loads(report.read_text())


def load(lines: int, rows: int, place: Path) -> dict[str, Any]:
    """Read, resume and grade `lines` predictions, and load `rows` problems."""
    problems = [Problem(f"test-{n}", "", "", "7", "main", "gsm8k") for n in range(lines // SAMPLES)]
    predictions, completions, data = (
        place / "predictions.jsonl",
        place / "completions.jsonl",
        place / "problems.jsonl",
    )
    text = "He buys 3 boxes of 4 pens, which is 3*4=<<3*4=12>>12 pens.\n" * 4 + "#### 7"
    with open(predictions, "w") as one, open(completions, "w") as other:
        for problem in problems:
            for sample in range(SAMPLES):
                one.write(
                    dumps(Completion(problem.id, sample, "9f2c", text, 120, "stop", -12.5, "run")) + "\n"
                )
                other.write(
                    json.dumps({"id": f"{problem.id}-{sample}", "completion": text, "gold": "7"}) + "\n"
                )
    with open(data, "w") as file:
        for n in range(rows):
            file.write(
                json.dumps({"question": f"Tom has {n} pens. " * 8, "answer": text.replace("7", str(n))})
                + "\n"
            )
    (test := place / "test.jsonl").write_text('{"question": "What is 1 plus 2?", "answer": "#### 3"}\n')
    size = max(1, 512 // SAMPLES)
    pieces = [range(at, min(at + size, len(problems))) for at in range(0, len(problems), size)]
    works = {
        "read predictions": lambda: sum(1 for _ in read_records(predictions, Completion)),
        "resume an evaluation": lambda: whole_pieces(predictions, pieces, SAMPLES),
        "reckon grade": lambda: grade_file(completions),
        "load problems": lambda: gsm8k.load("train", path=str(data), test_path=str(test), dev_size=500),
    }
    sizes = {
        "read predictions": predictions,
        "resume an evaluation": predictions,
        "reckon grade": completions,
        "load problems": data,
    }
    return {
        name: {"file_mb": round(sizes[name].stat().st_size / 1e6), **measured(work, place)}
        for name, work in works.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", type=int, default=200, help="0 leaves the soak out")
    parser.add_argument("--lines", type=int, default=1_000_000, help="0 leaves the large files out")
    parser.add_argument("--problems", type=int, default=2_300_000, help="rows of the file of problems")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stored = json.loads(options.out.read_text()) if options.out.is_file() else {}
    with tempfile.TemporaryDirectory() as place:
        if options.lines:
            stored["load"] = {
                "lines": options.lines,
                "problems": options.problems,
                **load(options.lines, options.problems, Path(place)),
            }
        if options.arms:
            stored["soak"] = soak(options.arms, Path(place))
    stored |= {"command": "python benchmarks/soak.py", "environment": environment()}
    options.out.write_text(json.dumps(stored, indent=1) + "\n")
    print(json.dumps({key: stored.get(key) for key in ("soak", "load")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
