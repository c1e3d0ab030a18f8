"""Policy x prompt x split -> completions -> grades, written as they come and resumable after a kill at any moment.

Completions are appended to `predictions/SPLIT-PROMPT.jsonl` a piece at a time. A resumed evaluation keeps the whole
pieces that are there and generates only what is missing; the score is always recomputed from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig
from reckoner.engine.batches import Example
from reckoner.engine.generate import Sampling
from reckoner.errors import InputError
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.evaluation.sample import answers, ask, note_backend
from reckoner.models.chat import Encoder
from reckoner.models.policy import Policy, fingerprint, load_policy
from reckoner.runs.documents import Entry, Sidecar
from reckoner.runs.folder import (
    Progress,
    Run,
    cut_to_prefix,
    differences,
    silent,
    stream_seed,
    write_json,
    writing,
)
from reckoner.runs.integrity import NOTHING, check_finished, hash_prefix
from reckoner.runs.records import Completion, Grade, Problem, dumps, read_json, read_records, write_jsonl
from reckoner.tasks import gsm8k
from reckoner.tasks.answers import number
from reckoner.tasks.prompts import Prompt

PINNED = ("What is 7 + 5?", "An\u00e9's 3 boxes cost $1,250.75.\n\nWhat does\u00a0half a box cost? ")
"""Questions whose token ids are the identity of a prompt; a changed template, tokenizer or switch changes them."""

PIECE_BATCHES = 2
"""Batches' worth of completions between two points from which a killed evaluation can go on."""


def load_problems(config: Config, split: str) -> list[Problem]:
    """The problems of one split of `config.data`; "test" is read only when asked for by name. `InputError` where there are none."""
    if problems := gsm8k.load(split, **asdict(config.data)):
        return problems
    raise InputError(
        f"data.dev_size={config.data.dev_size:g} leaves no {split} problems, and they are needed. Set data.dev_size=0.1"
    )


def make_prompt(config: Config, policy: Encoder) -> Prompt:
    """The prompt of a run: the same object in training, evaluation and prediction.

    Raises `InputError` where the model would not be shown what the settings say.
    """
    wanted = config.prompt.chat_template
    name, has_template = policy.tokenizer.name_or_path, bool(policy.tokenizer.chat_template)
    if wanted == "on" and not has_template:
        raise InputError(
            f"prompt.chat_template=on, but the tokenizer of {name} has no chat template. Set prompt.chat_template=off"
        )
    chat = has_template and wanted != "off"
    if config.prompt.system and not chat:
        raise InputError(
            "prompt.system is for chats, and this prompt is plain: set prompt.instruction instead"
        )
    if not chat and (found := policy.special.search(config.prompt.template)):
        raise InputError(
            f"prompt.template holds {found[0]}, a control token of {name}, which text never becomes: leave it out"
        )
    exemplars = gsm8k.exemplars(**asdict(config.data))[: config.prompt.shots] if config.prompt.shots else []
    prompt = Prompt(
        config.prompt.template,
        config.prompt.instruction,
        tuple(exemplars),
        chat,
        config.prompt.system,
        config.prompt.chat_template_kwargs,
    )
    asked = [ask(policy, prompt, question) for question in PINNED]
    if chat:
        messages = prompt.render(PINNED[0])
        policy.check_shown(messages, **prompt.chat_template_kwargs)
    elif asked[0][-1] == policy.tokenizer.eos_token_id:
        raise InputError(
            f"the tokenizer of {name} ends every text with EOS, behind which no answer follows: set add_eos_token to "
            "false in its tokenizer_config.json"
        )
    return replace(prompt, digest=hashlib.sha256(dumps(asked).encode()).hexdigest()[:16])


def encode(policy: Encoder, prompt: Prompt, problems: Sequence[Problem]) -> list[Example]:
    """Token ids of each problem's prompt and solution. Raises `InputError` where they are not those of the whole."""
    return [
        Example(p.id, tuple(ids), tuple(answer))
        for p in problems
        for ids, answer in [
            policy.encode_example(
                prompt.render(p.question), prompt.answer(p.solution), **prompt.chat_template_kwargs
            )
        ]
    ]


def describe_prompt(prompt: Prompt, policy: Policy, example: Problem) -> dict[str, Any]:
    """What prompt.json holds: the prompt as the model saw it, on one example."""
    ids = ask(policy, prompt, example.question)
    return {
        "name": prompt.name,
        "hash": prompt.digest,
        "template": prompt.template,
        "system": prompt.system,
        "instruction": prompt.instruction,
        "shots": [exemplar.id for exemplar in prompt.exemplars],
        "chat_template": prompt.chat,
        "chat_template_kwargs": dict(prompt.chat_template_kwargs),
        "rendered": policy.tokenizer.decode(ids),
        "token_ids": list(ids),
    }


def greedy(policy: Policy, prompt: Prompt, max_new_tokens: int) -> Sampling:
    """The decoding of every comparison: the most likely token, up to a stop token or a new question."""
    return Sampling(max_new_tokens=max_new_tokens, stop_ids=policy.stop_ids, stop_strings=prompt.stop_strings)


def sampling_of(config: Config, policy: Policy, prompt: Prompt, max_new_tokens: int) -> Sampling:
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=config.eval.temperature,
        top_k=config.eval.top_k,
        top_p=config.eval.top_p,
        num_samples=config.eval.num_samples,
        seed=stream_seed(config.run.seed, "evaluate"),
        stop_ids=policy.stop_ids,
        stop_strings=prompt.stop_strings,
    )


def evaluate(
    run: Run, policy: Policy, split: str, on_progress: Progress = silent, limit: int = 0
) -> dict[str, Any]:
    """Evaluate one split completely, add it to the run's summary and return its entry (see docs/metrics.md).

    `limit` is the result of `token_limit` where the caller has it: encoding all train solutions takes over a second.
    """
    config = run.config
    prompt = make_prompt(config, policy)
    problems = load_problems(config, split)
    limit = limit or config.eval.max_new_tokens
    limit = limit or token_limit(config, solution_lengths(policy, prompt, load_problems(config, "train")))
    sampling = sampling_of(config, policy, prompt, limit)
    paths = _paths(run, split, prompt, sampling)
    if any(done["predictions"] == str(paths["predictions"]) for done in run.summary.get("evaluations", [])):
        check_finished(run.folder, str(paths["predictions"]))
    write_jsonl(run.folder / paths["problems"], problems)
    write_json(run.folder / "prompt.json", describe_prompt(prompt, policy, problems[0]))
    session = EvalSession.open(
        run.folder / paths["predictions"], settings_of(policy, prompt, sampling, problems)
    )
    complete(run, policy, prompt, problems, sampling, session, on_progress, split)
    gold, grades, tokens = {problem.id: problem.gold for problem in problems}, [], 0
    for completion in read_records(session.path, Completion):
        grades.append(number.grade(completion, gold[completion.problem_id]))
        tokens += completion.token_count
    write_jsonl(run.folder / paths["grades"], grades)
    entry = {
        "split": split,
        "prompt": prompt.name,
        "prompt_hash": prompt.digest,
        **tally(grades),
        "tokens": tokens,
        "seconds": round(session.seconds, 3),
        "decoding": "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}",
        "samples": sampling.num_samples,
        "max_new_tokens": sampling.max_new_tokens,
        "grader": number.GRADER,
        **{kind: str(path) for kind, path in paths.items()},
        "reads": session.reads,
    }
    _add_evaluation(run, entry)
    return entry


def evaluate_model(config: Config, on_progress: Progress = silent) -> tuple[Path, dict[str, Any]]:
    """Evaluate any model on `eval.split`: beside the run if it is one, else in a folder of its own."""
    given = Path(config.model.model_name_or_path)
    is_run = (given / "config.yaml").is_file()
    config.run.output_dir = config.run.output_dir if not is_run else str(given)
    config.run.output_dir = (
        config.run.output_dir or f"runs/eval-{re.sub(r'[^A-Za-z0-9._-]+', '-', str(given)).strip('-.')[-50:]}"
    )
    with Run.open(config, attach=True) as run:
        policy = load_policy(config.model, PeftConfig(), train=False)
        note_backend(run, policy, on_progress, trains=False)
        return run.folder, evaluate(run, policy, config.eval.split, on_progress)


def tally(grades: Sequence[Grade]) -> dict[str, int]:
    """Counts over graded completions: n, strict, flexible, no_answer, truncated, multi_marker."""
    verdicts = Counter(grade.verdict for grade in grades)
    return {
        "n": len(grades),
        "strict": sum(grade.strict for grade in grades),
        "flexible": sum(grade.flexible for grade in grades),
        "no_answer": verdicts["no_answer"],
        "truncated": verdicts["truncated"],
        "multi_marker": sum(grade.markers > 1 for grade in grades),
    }


@dataclass
class EvalSession:
    """A predictions file and what stands beside it: the settings it was made with, the seconds it took, how often it was
    begun, and size and sha256 of what this evaluation has written. Nothing else in the file is used."""

    path: Path
    settings: dict[str, Any]
    seconds: float = 0.0
    reads: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any]) -> EvalSession:
        """Begin or go on; raises `InputError` if the file was made with other settings, or is not as it was left.

        The file is there before the note that it was begun, so that a kill between the two is not counted as a reading.
        """
        beside = path.with_suffix(".json")
        saved = read_json(beside, Sidecar, missing={})
        if saved and (found := differences(saved["settings"], settings)):
            raise InputError(f"{path} was made with {found[0]}. Delete it or use another run.output_dir")
        if not saved and path.is_file() and path.stat().st_size:
            raise InputError(
                f"{path}: has no {beside.name}, which says how it was made. Delete it to generate it again"
            )
        written: Entry = {"size": saved["size"], "sha256": saved["sha256"]} if saved else NOTHING
        digest = cut_to_prefix(
            path, written, f"Put it back, or delete it and {beside.name} to generate it again"
        )
        session = cls(path, settings, saved.get("seconds", 0.0), saved.get("reads", 0), digest)
        session.reads += not (saved and path.is_file())
        with writing(path):
            path.touch()
        session.note()
        return session

    def append(self, text: str, more_seconds: float) -> None:
        """Add whole lines to the file and note them; a kill between the two costs these lines, never the file."""
        with writing(self.path), open(self.path, "ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.digest.update(text.encode())
        self.note(more_seconds)

    def cut(self, end: int) -> None:
        """Drop what stands after byte `end`, noting first what is left."""
        self.digest = hash_prefix(self.path, end)
        self.note(size=end)
        with writing(self.path):
            os.truncate(self.path, end)

    def note(self, more_seconds: float = 0.0, size: int | None = None) -> None:
        """Put down what is written: it counts from here on."""
        written = {
            "size": self.path.stat().st_size if size is None else size,
            "sha256": self.digest.hexdigest(),
        }
        times = {"seconds": self.seconds + more_seconds, "reads": self.reads}
        write_json(self.path.with_suffix(".json"), {"settings": self.settings, **times, **written})


def settings_of(
    policy: Policy, prompt: Prompt, sampling: Sampling, problems: Sequence[Problem]
) -> dict[str, Any]:
    """What must be the same for an evaluation to be continued: weights, prompt, decoding, and the problems by their content."""
    weights, questions = (
        hashlib.sha256("".join(map(dumps, parts)).encode()).hexdigest()[:16]
        for parts in (fingerprint(policy.model).items(), problems)
    )
    return {
        "model": weights,
        "prompt_hash": prompt.digest,
        "problems": questions,
        "sampling": json.loads(dumps(sampling)),
    }


def complete(
    run: Run,
    policy: Policy,
    prompt: Prompt,
    problems: Sequence[Problem],
    sampling: Sampling,
    session: EvalSession,
    on_progress: Progress,
    phase: str,
) -> None:
    """Generate what the session's file does not hold yet, and leave the file in the order of the problems.

    Problems are generated in fixed pieces, each written when it is whole: a row that was cut short could not be gone on
    with, since log-probs differ in their last bits with the company that a row has in its batch. So the file is the same
    to the byte, whatever happened on the way.
    """
    path, config = session.path, run.config.eval
    size = max(1, PIECE_BATCHES * config.batch_size // sampling.num_samples)
    pieces = [range(at, min(at + size, len(problems))) for at in range(0, len(problems), size)]
    held, end = whole_pieces(path, problems, pieces, sampling.num_samples)
    if end < path.stat().st_size:
        session.cut(end)
    total, started = len(problems) * sampling.num_samples, time.perf_counter()
    for piece in pieces[held:]:
        before = piece[0] * sampling.num_samples
        answered = answers(
            policy,
            prompt,
            [problems[i] for i in piece],
            sampling,
            config,
            run.folder.name,
            keys=piece,
            on_done=lambda count, before=before: on_progress(phase, before + count, total, ""),
        )
        text = "".join(f"{dumps(one.completion)}\n" for one in answered)
        session.append(text, time.perf_counter() - started)
    if held < len(pieces):
        session.seconds += time.perf_counter() - started
        session.note()


def whole_pieces(
    path: Path, problems: Sequence[Problem], pieces: Sequence[range], samples: int
) -> tuple[int, int]:
    """How many pieces a predictions file holds, whole and in order, and the byte where they end. Constant memory."""
    held = end = 0
    with open(path, "rb") as file:
        lines = iter(file)
        for piece in pieces:
            wanted = [(problems[i].id, sample) for i in piece for sample in range(samples)]
            found = list(islice(lines, len(wanted)))
            if list(map(_key, found)) != wanted:
                break
            held, end = held + 1, end + sum(map(len, found))
    return held, end


def _key(line: bytes) -> tuple[str, int] | None:
    """Problem and sample of one line of predictions; None where a kill cut it short."""
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return (
        (value.get("problem_id"), value.get("sample"))
        if isinstance(value, dict) and line.endswith(b"\n")
        else None
    )


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
        "grader": number.GRADER,
        "status": "finished",
        "evaluations": [],
    }


def _add_evaluation(run: Run, entry: dict[str, Any]) -> None:
    """Put one evaluation into summary.json, in place of an earlier one with the same file; a run that trained nothing gets its summary here."""
    summary = run.summary or {**describe_run(run, "prompt", "none"), "training": None}
    others = [e for e in summary["evaluations"] if e["predictions"] != entry["predictions"]]
    sidecar = str(Path(entry["predictions"]).with_suffix(".json"))
    written = [entry["problems"], entry["predictions"], entry["grades"], sidecar, "prompt.json"]
    run.conclude({**summary, "evaluations": [*others, entry]}, written)


def _paths(run: Run, split: str, prompt: Prompt, sampling: Sampling) -> dict[str, Path]:
    """Where problems, predictions and grades go, relative to the run; sampled evaluations carry their temperature and count."""
    name = f"{split}-{prompt.name}" + (
        f"-t{sampling.temperature:g}-n{sampling.num_samples}" if sampling.temperature else ""
    )
    paths = {"problems": Path("problems") / f"{split}.jsonl"}
    paths |= {kind: Path(kind) / f"{name}.jsonl" for kind in ("predictions", "grades")}
    for path in paths.values():
        with writing(run.folder / path):
            (run.folder / path).parent.mkdir(exist_ok=True)
    return paths
