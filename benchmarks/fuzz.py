"""Damage every kind of document that is read, one at a time, and prove that no command ends with a traceback.

    python -m benchmarks.fuzz                  10,000 documents, stored in benchmarks/results/fuzz.json
    python -m benchmarks.fuzz --documents 500  fewer; nothing is stored
    python -m benchmarks.fuzz --again 731      one document, with the traceback and what was changed

Documents are settings, data files of every kind, sets, completions of ours and of other tools, golds,
questions, claims, capsules, every file of run and study folders and of a model folder, and GGUF files. A
document is damaged in its structure (a value replaced, removed, renamed, wrapped, repeated) or in its bytes.
Then a command that reads it runs inside a fork of this process. It may succeed, refuse with a line (exit 2),
or say that it can go on (exit 75). Anything else is a fault: an exception, a refusal without a line, a
process that dies, more than `LIMIT` seconds. The same seed and number give the same document.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from benchmarks.small_gemma import small_gemma

from benchmarks import torture
from reckoner import cli
from reckoner.machine import environment
from reckoner.study import run as study  # noqa: F401  # loaded once, here, for all forks

RESULT = Path(__file__).parent / "results" / "fuzz.json"
LIMIT, MEMORY = 60, 12 * 2**30
"""Processor seconds that one command may take (ten times as many of the clock), and bytes that it may map."""

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, float("nan"), float("inf"), 10**30, 10**400, 2**63),
    *(
        "",
        " ",
        "x",
        "x" * 5000,
        "\0",
        "\ud800",
        "\x1b[31m",
        "../x",
        "/dev/zero",
        "nano",
        "1e5",
        "²",
        "NaN",
        "#### 7",
    ),
    *([], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, "{{ x }}", "${x}", "{question}", "(a+)+$", "["),
)
PIECES = (
    *(
        b"",
        b"\0",
        b"\xff\xfe",
        b"\n",
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[" * 3000,
        b"]",
        b",",
        b":",
        b"null",
        b"NaN",
        b"-",
    ),
    *(
        b"9" * 5000,
        b"1e999",
        b"&a [*a]",
        b"!!python/name:os.system",
        b"<<: 1\n",
        b"\t",
        b"{% for x in y %}",
        b"{{",
        b"\xf0\x9f",
    ),
)

HEADERS = {".safetensors": 2000, ".gguf": 8000}
"""Bytes from the start of a file in which damage says something else than another weight."""


def damaged_value(draw: random.Random, value: Any) -> Any:
    """`value` (of JSON) with one change at a random place in it."""
    if isinstance(value, dict) and value and draw.random() < 0.85:
        key = draw.choice(list(value))
        change = draw.choice(["inside"] * 6 + ["remove", "rename", "add"])
        if change == "inside":
            return {**value, key: damaged_value(draw, value[key])}
        rest = {name: item for name, item in value.items() if name != key or change == "add"}
        return rest if change == "remove" else {**rest, draw.choice(["", "x", f"{key} ", "id"]): value[key]}
    if isinstance(value, list) and value and draw.random() < 0.85:
        at = draw.randrange(len(value))
        change = draw.choice(["inside"] * 6 + ["remove", "repeat"])
        inside = {"inside": [damaged_value(draw, value[at])], "remove": [], "repeat": [value[at]] * 3}[change]
        return [*value[:at], *inside, *value[at + 1 :]]
    return [value] if draw.random() < 0.1 else draw.choice(ODD)


def damaged_bytes(draw: random.Random, content: bytes, within: int) -> bytes:
    """`content` with a few changes in its first `within` bytes: a bit, a span, a piece of another language,
    the end."""
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(min(within, len(content)) + 1)
        until = at + draw.choice((0, 1, 1, 8, 60))
        change = draw.choice(("flip", "insert", "replace", "repeat", "cut"))
        if change == "flip" and at < len(content):
            content = content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        elif change == "repeat":
            content = content[:until] + content[at:]
        elif change == "cut" and draw.random() < 0.3:
            content = content[:at]
        else:
            content = content[:at] + draw.choice(PIECES) + content[at if change == "insert" else until :]
    return content


def damaged(draw: random.Random, path: Path) -> bytes:
    """The bytes of a document after its damage; by structure where the file has one that can be read."""
    content = path.read_bytes()
    if not content or draw.random() < 0.35 or path.suffix not in (".json", ".jsonl", ".yaml"):
        return damaged_bytes(draw, content, HEADERS.get(path.suffix, len(content)))
    if path.suffix == ".yaml":
        return yaml.safe_dump(damaged_value(draw, yaml.safe_load(content)), allow_unicode=True).encode(
            "utf-8", "replace"
        )
    if path.suffix == ".json":
        return json.dumps(damaged_value(draw, json.loads(content))).encode()
    lines = content.splitlines()
    at = draw.randrange(len(lines))
    change = draw.choice(("inside", "inside", "inside", "twice", "gone", "empty"))
    if change == "inside":
        lines[at] = json.dumps(damaged_value(draw, json.loads(lines[at]))).encode()
    elif change == "empty":
        lines = []
    else:
        lines[at : at + 1] = [lines[at]] * (2 if change == "twice" else 0)
    return b"\n".join(lines) + b"\n"


@dataclass(frozen=True)
class Door:
    """One way in: `files` (a pattern below the material) and the commands that read any of them. `{}` is the
    file itself."""

    name: str
    share: int
    files: str
    commands: tuple[str, ...]


RUN, STUDY, MODEL = "study/lora", "study", "tiny"
SETTINGS = "data.dev_size=8 data.max_train_samples=32 data.max_test_samples=12"
DOORS = (
    Door(
        "settings",
        20,
        "settings/*.yaml",
        ("sft --dry-run --config {}", "plan --config {}"),
    ),
    Door("settings of a study", 5, "settings/study.yaml", ("study --dry-run --config {}",)),
    Door(
        "data",
        10,
        "data/*.jsonl",
        ("data stats data.path={} data.dev_size=4", "data stats data.path=data data.dev_size=4"),
    ),
    Door(
        "completions",
        15,
        "answers/a.jsonl",
        (
            "grade {} --output out.jsonl",
            "grade {} --grader all",
            "compare {} answers/b.jsonl",
            "errors {} --gold answers/golds.jsonl",
        ),
    ),
    Door(
        "golds",
        5,
        "answers/golds.jsonl",
        ("grade answers/a.jsonl --gold {}", "errors answers/a.jsonl answers/b.jsonl --gold {}"),
    ),
    Door("questions", 2, "answers/questions.jsonl", (f"predict {RUN} --input {{}} --output out.jsonl",)),
    Door(
        "a run",
        20,
        "study/lora/**/*",
        (
            *(
                f"verify {RUN}",
                f"compare {RUN} study/full",
                f"errors {RUN}",
                f"eval {RUN} eval.split=test",
            ),
            *(f"predict {RUN} --input answers/questions.jsonl --output out.jsonl", f"merge {RUN} merged"),
        ),
    ),
    Door(
        "a run that goes on",
        4,
        "study/full/**/*",
        (
            "sft --config settings/full.yaml run.output_dir=study/full",
            "sft --init study/full --config settings/full.yaml --dry-run",
        ),
    ),
    Door(
        "rollouts",
        4,
        "study/grpo/**/*",
        (
            "rollouts study/grpo",
            "rollouts study/grpo --step 1 --json",
            "verify study/grpo",
            "errors study/grpo study/full",
        ),
    ),
    *(
        Door(
            f"tables as {kind}",
            2,
            f"tables/a.{kind}",
            ("data stats data.path={} data.dev_size=2 task.records=row",),
        )
        for kind in ("csv", "tsv", "json", "xml", "parquet")
    ),
    Door(
        "a set",
        4,
        "tables/*.yaml",
        ("data stats data.suite={} data.dev_size=2",),
    ),
    Door(
        "rows of other tools",
        8,
        "tools/[!p]*",
        ("grade {} --gold tools/problems.jsonl", "grade {} --gold tools/problems.jsonl --json"),
    ),
    Door("claims", 3, "tables/claims.jsonl", ("claims {}",)),
    Door("a capsule", 4, "capsule.zip", ("replay {}",)),
    Door("curves", 3, "study/*/metrics.jsonl", ("watch study", "watch study/full", "ls .")),
    Door("a study", 3, "study/*.*", (f"verify {STUDY}", f"report {STUDY}")),
    Door("a report", 1, "study/*/*.json*", (f"report {STUDY}",)),
    Door(
        "a model",
        16,
        "tiny/*",
        (
            f"data show-labels -n 1 model.model_name_or_path={MODEL} prompt.chat_template=auto {SETTINGS}",
            f"predict {MODEL} --input answers/questions.jsonl --output out.jsonl",
            f"plan model.model_name_or_path={MODEL} --json",
        ),
    ),
    Door(
        "a GGUF file",
        3,
        "tiny.gguf",
        (
            f"data show-labels -n 1 model.model_name_or_path={{}} prompt.chat_template=auto {SETTINGS}",
            "predict {} --input answers/questions.jsonl --output out.jsonl",
        ),
    ),
)


def prepare(place: Path) -> None:
    """Undamaged material below `place`: two tiny models, a study of three runs on one, data, answers and
    settings."""
    from benchmarks import small_gguf

    small_gguf.write(place / "tiny.gguf", small_gguf.make_llama())
    model = small_gemma(place / "tiny", seed=0, eos=3)
    arms = {
        "full": {"method": "sft"},
        "lora": {"method": "sft", "set": {"peft": {"method": "lora", "lora_r": 4, "lora_alpha": 8}}},
        "grpo": {"method": "grpo", "init": "full", "set": {"rollout": {"max_steps": 2}}},
    }
    config = torture.settings(model, place / "study", study={"arms": arms})
    (place / "settings").mkdir()
    (place / "settings" / "study.yaml").write_text(config.to_yaml())
    quiet("study", "--config", str(place / "settings" / "study.yaml"))
    shutil.copy(place / "study" / "full" / "config.yaml", place / "settings" / "full.yaml")
    for preset in ("nano", "smoke"):  # those of other models want weights that are not here
        shutil.copy(Path(cli.__file__).parents[1] / "presets" / f"{preset}.yaml", place / "settings")
    (place / "data").mkdir()
    (place / "answers").mkdir()
    for split, seed in (("train", 7), ("test", 8)):
        quiet(
            "data",
            "make",
            "--n",
            "20",
            "--seed",
            str(seed),
            "--output",
            str(place / "data" / f"{split}.jsonl"),
        )
    prepare_tables(place)
    quiet("pack", str(place / "study"), "--output", str(place / "capsule.zip"))
    golds = [json.loads(line) for line in (place / "study/full/problems/test.jsonl").read_text().splitlines()]
    (place / "answers" / "golds.jsonl").write_text("".join(json.dumps(gold) + "\n" for gold in golds))
    (place / "answers" / "questions.jsonl").write_text(json.dumps({"question": golds[0]["question"]}) + "\n")
    for name, wrong in (("a", 2), ("b", 3)):
        rows = [
            {
                "id": gold["id"],
                "completion": f" So #### {gold['gold'] if n % wrong else n}",
                "gold": gold["gold"],
            }
            for n, gold in enumerate(golds)
        ]
        (place / "answers" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def prepare_tables(place: Path) -> None:
    """Problems as tables of every kind, a set that reads one, and rows that other tools wrote."""
    import pyarrow
    from pyarrow import parquet

    tables = place / "tables"
    tables.mkdir()
    rows = [
        {"question": f"How many are {n} and 3?", "answer": f"{n}+3={n + 3}\n#### {n + 3}"} for n in range(14)
    ]
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        lines = [
            f"question{delimiter}answer",
            *(f"{r['question']}{delimiter}#### {n}" for n, r in enumerate(rows)),
        ]
        (tables / name).write_text("\n".join(lines) + "\n")
    (tables / "a.json").write_text(json.dumps({"row": rows}))
    cells = (f"<question>{r['question']}</question><answer>{r['answer']}</answer>" for r in rows)
    (tables / "a.xml").write_text(f"<set>{''.join(f'<row>{one}</row>' for one in cells)}</set>")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tables / "a.parquet")
    about = {
        "title": "Sums",
        "licence": "MIT",
        "source": "here",
        "counts": {"train": 14},
        "sha256": {"a": "0" * 64},
    }
    suite = {"data": {"path": "tables/a.json"}, "task": {"records": "row"}, "about": about}
    suite["parts"] = {"two": {"data": {"path": "tables/a.csv"}, "about": {"title": "Two"}}}
    (tables / "set.yaml").write_text(yaml.safe_dump(suite))
    published = Path(cli.__file__).parents[1] / "analysis" / "claims.jsonl"
    (tables / "claims.jsonl").write_bytes(b"".join(published.read_bytes().splitlines(keepends=True)[:8]))
    shutil.copytree(Path(__file__).parents[1] / "tests" / "data" / "tools", place / "tools")


def quiet(*words: str) -> tuple[int, str]:
    """Exit code and stderr of one command line, run in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    err.flush()
    return code, err.buffer.getvalue().decode("utf-8", "replace")


class TooLong(BaseException):
    """A command that has not ended after `LIMIT` seconds."""


def attempt(material: Path, place: Path, seed: int, number: int, words: bool = False) -> dict[str, Any]:
    """Damage document `number` in a copy of the material and run a command on it: what it was, and how it
    ended."""
    draw = random.Random(f"{seed} {number}")
    door = draw.choices(DOORS, [door.share for door in DOORS])[0]
    files = [path for path in sorted(material.glob(door.files)) if path.is_file() and path.name != ".lock"]
    source, command = draw.choice(files), draw.choice(door.commands)
    name = str(source.relative_to(material))
    shutil.copytree(material, place)
    (place / name).write_bytes(damaged(draw, source))
    os.chdir(place)
    found = {"number": number, "door": door.name, "file": name, "command": command.format(name)}
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.alarm(10 * LIMIT)
    try:
        code, said = quiet(*command.format(name).split())
        ended = {0: "read", 2: "refused", 75: "stopped"}.get(code, f"exit {code}")
        if code and not any(line.startswith("reckon: ") for line in said.splitlines()):
            ended = "no line"
    except TooLong:
        ended = "too long"
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where, ours = frames[-1], ([f for f in frames if "/reckoner/" in f.filename] or frames)[-1]
        ended = "traceback"
        found["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        found["at"] = (
            f"{Path(ours.filename).name}:{ours.lineno} -> {Path(where.filename).name}:{where.lineno}"
        )
        if words:
            traceback.print_exception(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    if words:
        print(said if ended != "traceback" else "", ended, place / name)
    return found | {"ended": ended, "seconds": round(time.monotonic() - began, 2)}


def batch(material: Path, seed: int, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The endings of `numbers`, run in a fork, which may die of one: then the next fork goes on behind it."""
    left = list(numbers)
    while left:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            _work(material, seed, left, writer)
        os.close(writer)
        with open(reader, encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
                left.pop(0)
        status = os.waitpid(child, 0)[1]
        if left:
            yield {
                "number": left.pop(0),
                "door": "?",
                "ended": f"process ended with {os.waitstatus_to_exitcode(status)}",
            }


def shared(material: Path, seed: int, documents: int) -> Iterator[dict[str, Any]]:
    """The endings of all documents as they come, from a process on each core that is allowed."""
    cores = sorted(os.sched_getaffinity(0))
    pipes = []
    for share, core in enumerate(cores):
        reader, writer = os.pipe()
        if not os.fork():
            try:
                os.sched_setaffinity(0, {core})
                with open(writer, "w", encoding="utf-8") as out:
                    for first in range(100 * share, documents, 100 * len(cores)):
                        for one in batch(material, seed, range(first, min(first + 100, documents))):
                            print(json.dumps(one), file=out, flush=True)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writer)
        pipes.append(open(reader, encoding="utf-8"))
    while pipes:
        for pipe in select.select(pipes, [], [])[0]:
            if line := pipe.readline():
                yield json.loads(line)
            else:
                pipes.remove(pipe)
                pipe.close()
    for _ in cores:
        if os.wait()[1]:
            raise RuntimeError("a process of the fuzzer itself has died")


def _work(material: Path, seed: int, numbers: Sequence[int], writer: int) -> None:
    def too_long(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, too_long)
    signal.signal(signal.SIGPROF, too_long)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # One core means one thread: a fork of a process that has computed on several waits for threads it lacks.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    place = material.parent / "work"
    place.mkdir(exist_ok=True)
    # What is made of damaged files goes with them.
    os.environ["XDG_CACHE_HOME"] = str(material.parent / "cache")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    for descriptor in (1, 2):  # libraries write here past Python
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    try:
        for number in numbers:
            folder = Path(tempfile.mkdtemp(dir=place)) / str(number)
            with open(writer, "w", encoding="utf-8", closefd=False) as out:
                out.write(json.dumps(attempt(material, folder, seed, number)) + "\n")
            os.chdir(place)
            shutil.rmtree(folder.parent, ignore_errors=True)
        os._exit(0)
    finally:
        os._exit(1)  # whatever happened: no fork goes on as its parent would


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz, print a line for each kind and each fault, and store the result; 1 where there was a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", type=int, help="only this document, with its traceback")
    parser.add_argument(
        "--out", type=Path, help="where to store the result (default: only of 10,000 and more)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as top:
        material = Path(top) / "material"
        material.mkdir()
        torture.finish(
            torture.start(lambda: prepare(material))
        )  # a process that has trained has threads: no fork of it lives
        if options.again is not None:
            place = Path(tempfile.mkdtemp()) / "again"
            print(attempt(material, place, options.seed, options.again, words=True))
            return 0
        began, endings, faults = time.monotonic(), [], []
        for one in shared(material, options.seed, options.documents):
            endings.append(one)
            if one["ended"] not in ("read", "refused", "stopped"):
                faults.append(one)
                print(json.dumps(one), flush=True)
            if len(endings) % 100 == 0:
                print(f"{len(endings):,} documents, {len(faults)} faults", file=sys.stderr, flush=True)
    doors = {
        door.name: Counter(one["ended"] for one in endings if one["door"] == door.name) for door in DOORS
    }
    for name, counts in doors.items():
        print(f"{name}: {dict(counts)}")
    out = options.out or (RESULT if options.documents >= 10_000 else None)
    if out:
        result = {
            "command": f"python -m benchmarks.fuzz --documents {options.documents} --seed {options.seed}",
            "environment": environment(),
            "seconds": round(time.monotonic() - began),
            "documents": len(endings),
            "endings": doors,
            "faults": faults,
        }
        out.write_text(json.dumps(result, indent=1) + "\n")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
