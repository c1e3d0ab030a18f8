"""What an evaluation keeps: problems, completions with their note, grades, and its entry in the summary.

Needs no torch: the completions may come from a model here or from a server.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from reckoner.config import Config, EvalConfig, build_config
from reckoner.config.suites import read_suite
from reckoner.errors import InputError
from reckoner.machine import DECISIVE, code_digest, versions
from reckoner.runs.documents import Entry, Environment, Seal, Sidecar
from reckoner.runs.folder import Progress, Run, check_maker, cut_to_prefix, differences
from reckoner.runs.integrity import NOTHING, check_known, hash_prefix
from reckoner.runs.ledger import new_seal, note_opening
from reckoner.runs.records import (
    Completion,
    Problem,
    count_grades,
    read_json,
    read_records,
    write_json,
    write_jsonl,
)
from reckoner.runs.safe_paths import as_name, refuse_link, writing
from reckoner.tasks import gsm8k
from reckoner.tasks.answers.grading import grade, grader_of, version_of
from reckoner.tasks.prompts import Prompt
from reckoner.tasks.selection import choose

PINNED = ("What is 7 + 5?", "An\u00e9's 3 boxes cost $1,250.75.\n\nWhat does\u00a0half a box cost? ")
"""Their token ids, or messages to a server, are the identity of a prompt: a changed template changes them."""


def load_problems(config: Config, split: str) -> list[Problem]:
    """The problems of one split of `config.data`; raises `InputError` where there are none."""
    if problems := gsm8k.load(split, **config.problem_source()):
        return problems
    raise InputError(
        f"data.dev_size={config.data.dev_size:g} leaves no {split} problems, and they are needed. "
        "Set data.dev_size=0.1"
    )


def suite_config(config: Config, suite: str) -> Config:
    """`config` with the problems of another set, named by `suite`. Raises `InputError` for an unknown one."""
    data = {"suite": suite, "max_test_samples": config.data.max_test_samples}
    other = build_config([({"data": data}, {})])
    return replace(config, data=other.data, task=other.task)


def suite_label(suite: str) -> str:
    """The name of a set in files and tables: `mgsm-de`, or the stem of a file of the user's."""
    return as_name(read_suite(suite).name.replace("/", "-"))


def has_train(config: Config) -> bool:
    """Whether there are train problems, from which lengths of answers are known."""
    return any(file["split"] == "train" for file in gsm8k.files(**config.problem_source()))


def prompt_of(config: Config, chat: bool) -> Prompt:
    """The prompt that the settings describe, as messages of a chat or as plain text; its hash is empty."""
    shots = config.prompt.shots
    exemplars = gsm8k.exemplars(**config.problem_source())[:shots] if shots else []
    return Prompt(
        config.prompt.template,
        config.prompt.instruction,
        tuple(exemplars),
        chat,
        config.prompt.system,
        config.prompt.chat_template_kwargs,
        answer_format=config.prompt.answer_format,
    )


@dataclass
class EvalSession:
    """A predictions file and its note: settings, seconds, size, sha256, usage, opening of test and maker.

    Only the bytes that were noted count.
    """

    path: Path
    settings: dict[str, Any]
    seconds: float
    seal: Seal | None
    size: int
    digest: hashlib._Hash
    usage: dict[str, int] = field(default_factory=dict)
    reads: int = 1
    maker: Environment | None = None

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any], seal: Seal | None = None) -> EvalSession:
        """Begin or go on; raises `InputError` where settings differ, or the file is not as it was left.

        `seal` is an opening of test. The note holds its id before the ledger does, so that a kill between the
        two is not counted twice.
        """
        beside = path.with_suffix(".json")
        for written_to in (path, beside):
            refuse_link(written_to)
        saved = read_json(beside, Sidecar, missing={})
        begun = saved["settings"] if saved else settings
        if "tokenizer" not in begun:  # a note from before it was named there
            settings = {name: value for name, value in settings.items() if name != "tokenizer"}
        if changed := differences(begun, settings):
            raise InputError(f"{path} was made with {changed[0]}. Delete it or use another run.output_dir")
        if not saved and path.is_file() and path.stat().st_size:
            raise InputError(
                f"{path}: has no {beside.name}, which says how it was made. Delete it to generate it again"
            )
        written: Entry = {"size": saved["size"], "sha256": saved["sha256"]} if saved else NOTHING
        digest = cut_to_prefix(
            path, written, f"Put it back, or delete it and {beside.name} to generate it again"
        )
        seal = saved.get("seal") or seal
        session = cls(path, begun, saved.get("seconds", 0.0), seal, written["size"], digest)
        session.usage, session.maker = saved.get("usage", {}), saved.get("maker")
        with writing(path):
            path.touch()
        session.note()
        return session

    def go_on(self) -> None:
        """Call before more is generated; `InputError` where other code or versions made what is there."""
        if not self.size:
            self.maker = {"versions": versions(DECISIVE), "code": code_digest()}
        elif self.maker:
            note = self.path.with_suffix(".json").name
            check_maker(self.path, self.maker, f"delete it and {note} to generate it again")

    def append(self, text: str, seconds: float, usage: Mapping[str, int] | None = None) -> None:
        """Add whole lines and note them; a kill between the two costs these lines, never the file.

        `usage` are the tokens that a server counted for them.
        """
        with writing(self.path), open(self.path, "ab") as file:
            self.size += file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.digest.update(text.encode())
        self.seconds += seconds
        for name, count in (usage or {}).items():
            self.usage[name] = self.usage.get(name, 0) + count
        self.note()

    def cut(self, end: int) -> None:
        """Drop what stands after byte `end`, noting first what is left."""
        self.digest, self.size = hash_prefix(self.path, end), end
        self.note()
        with writing(self.path):
            os.truncate(self.path, end)

    def note(self) -> None:
        """Put down what is written: it counts from here on."""
        names = ("settings", "seconds", "seal", "size")
        noted = {name: getattr(self, name) for name in names} | {"sha256": self.digest.hexdigest()}
        noted |= {"usage": self.usage} if self.usage else {}
        noted |= {"maker": self.maker} if self.maker else {}
        write_json(self.path.with_suffix(".json"), noted)


def open_session(
    run: Run, test: str, predictions: Path, settings: dict[str, Any], n: int, on_progress: Progress
) -> EvalSession:
    """The predictions of `n` problems, begun or gone on with; an opening of test goes into its ledger.

    `test` is the sha256 of the test problems, empty for other problems.
    """
    seal = new_seal(test) if test else None
    session = EvalSession.open(run.folder / predictions, settings, seal)
    note_opened(run, session, predictions, n, on_progress)
    return session


def opened_test(config: Config) -> str:
    """The sha256 of the test problems, which names the ledger of their openings."""
    return next(f["sha256"] for f in gsm8k.files(**config.problem_source()) if f["split"] == "test")


def note_opened(run: Run, session: EvalSession, predictions: Path, n: int, on_progress: Progress) -> None:
    """Write an opening of test into its ledger, say what was opened before, and count this evaluation's."""
    if session.seal is None or run.follows:
        return
    ledger = note_opening(session.seal, run.folder, str(predictions), session.settings["model"], n)
    same, every = ledger.earlier(session.seal["id"])
    if same and not session.size:
        times = f"{same} time{'s' * (same > 1)}"
        on_progress("seal", 0, 0, f"these weights have opened test {times} before, all models {every}")
    for fault in ledger.faults:
        on_progress("seal", 0, 0, fault)
    session.reads = ledger.by_run(run.folder, str(predictions))


def whole_pieces(path: Path, pieces: Sequence[range], samples: int) -> tuple[int, int]:
    """How many pieces a verified predictions file holds, and the byte where they end. Constant memory."""
    held = end = 0
    with open(path, "rb") as file:
        for piece in pieces:
            lines = list(islice(file, len(piece) * samples))
            if len(lines) < len(piece) * samples:
                break
            held, end = held + 1, end + sum(map(len, lines))
    return held, end


def finished_evaluation(run: Run, split: str) -> dict[str, Any] | None:
    """The entry of a split that this run has finished evaluating, or None."""
    return next((entry for entry in run.summary.get("evaluations", []) if entry["split"] == split), None)


def describe_run(run: Run, method: str, peft: str) -> dict[str, Any]:
    """The part of summary.json that a run has whether or not it trained anything."""
    config = run.config
    return {
        "name": run.folder.name,
        "method": method,
        "peft": peft,
        "variant": config.data.variant,
        "init": config.model.model_name_or_path,
        "seed": config.run.seed,
        "grader": version_of(config.task.answer_kind),
        "status": "finished",
        "evaluations": [],
    }


def add_evaluation(run: Run, entry: dict[str, Any], passes: Sequence[Path]) -> None:
    """Put one evaluation into summary.json, in place of an earlier one with the same file.

    `passes` are the files that were generated. A run that trained nothing gets its summary here.
    """
    summary = run.summary or {**describe_run(run, "prompt", "none"), "training": None}
    others = [e for e in summary["evaluations"] if e["predictions"] != entry["predictions"]]
    written = [entry["problems"], entry["predictions"], entry["grades"], "prompt.json"]
    written += [str(path) for one in passes for path in (one, one.with_suffix(".json"))]
    written += ["limits.json"] * (run.folder / "limits.json").is_file()
    run.conclude({**summary, "evaluations": [*others, entry]}, written)


def evaluation_paths(
    run: Run, split: str, prompt: Prompt, how: EvalConfig
) -> tuple[dict[str, Path], list[Path]]:
    """Where problems, predictions and grades go, and the file of each pass that generates; the last of these
    are the predictions, unless some are selected. Names say what is not greedy decoding alone.
    """
    name = f"{split}-{prompt.name}" + (f"-t{how.temperature:g}-n{how.num_samples}" if how.temperature else "")
    name += "-calculator" * how.calculator
    passes = [name, f"{name}-refined"] if how.refine else [name]
    final = passes[-1] + f"-{how.select}" * (how.select != "none")
    paths = {"problems": Path("problems") / f"{split}.jsonl"}
    paths |= {kind: Path(kind) / f"{final}.jsonl" for kind in ("predictions", "grades")}
    for path in paths.values():
        with writing(run.folder / path):
            (run.folder / path).parent.mkdir(exist_ok=True)
    return paths, [Path("predictions") / f"{one}.jsonl" for one in passes]


def check_generated(run: Run, predictions: Path, passes: Sequence[Path]) -> None:
    """Raise `InputError` where what a finished evaluation generated, or its note, is not as it was."""
    written = (predictions, *(file for one in passes for file in (one, one.with_suffix(".json"))))
    check_known(run.folder, *map(str, written))


def score(
    run: Run,
    sessions: Sequence[EvalSession],
    problems: Sequence[Problem],
    paths: Mapping[str, Path],
    prompt: Prompt,
    how: EvalConfig,
    max_new_tokens: int,
) -> dict[str, Any]:
    """Grade the predictions, write the grades, and return the entry of the evaluation.

    The predictions are what the last of the `sessions` holds, or what is selected of it. The tokens of all
    are counted.
    """
    by_id = {problem.id: problem for problem in problems}
    passes = [list(read_records(one.path, Completion)) for one in sessions]
    predictions = passes[-1]
    if how.select != "none":
        drawn: dict[str, list[Completion]] = {name: [] for name in by_id}
        for one in sorted(predictions, key=lambda one: one.sample):
            drawn[one.problem_id].append(one)
        predictions = [choose(how.select, group, by_id[name]) for name, group in drawn.items()]
        write_jsonl(run.folder / paths["predictions"], predictions)
    grades = [grade(one, by_id[one.problem_id]) for one in predictions]
    write_jsonl(run.folder / paths["grades"], grades)
    entry = {
        "split": paths["problems"].stem,
        "prompt": prompt.name,
        "prompt_hash": prompt.digest,
        **count_grades(grades),
        "tokens": sum(one.token_count for drawn in passes for one in drawn),
        "seconds": round(sum(one.seconds for one in sessions), 3),
        "decoding": ("greedy" if how.temperature == 0 else f"temperature {how.temperature:g}")
        + " with a calculator" * how.calculator
        + ", refined" * bool(how.refine)
        + f", {how.select} of {how.num_samples}" * (how.select != "none"),
        "samples": how.num_samples,
        "max_new_tokens": max_new_tokens,
        "grader": grader_of(problems),
        **{kind: str(path) for kind, path in paths.items()},
        "reads": sessions[0].reads,
    }
    if how.refine:
        both = [[grade(one, by_id[one.problem_id]).strict for one in drawn] for drawn in passes]
        gained = [after - before for before, after in zip(*both, strict=True)]
        entry |= {"fixed": gained.count(1), "broken": gained.count(-1)}
    return entry
