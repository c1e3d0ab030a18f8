"""Policy x prompt x split -> completions -> grades, resumable after a kill at any moment.

Completions are appended to `predictions/SPLIT-PROMPT.jsonl` a piece at a time. A resumed evaluation keeps the
whole pieces that are there and generates only what is missing. The score is always recomputed from the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig
from reckoner.engine.batches import Example
from reckoner.engine.generate import Sampling
from reckoner.errors import InputError
from reckoner.evaluation.limits import dev_limit, solution_lengths, token_limit
from reckoner.evaluation.sample import answers, ask, greedy, note_backend
from reckoner.models.chat import Encoder
from reckoner.models.policy import Policy, fingerprint, load_policy
from reckoner.runs.documents import Entry, Seal, Sidecar
from reckoner.runs.folder import Progress, Run, cut_to_prefix, differences, silent, stream_seed
from reckoner.runs.integrity import NOTHING, check_finished, hash_prefix
from reckoner.runs.ledger import new_seal, note_opening
from reckoner.runs.records import (
    Completion,
    Problem,
    count_grades,
    dumps,
    read_json,
    read_records,
    write_json,
    write_jsonl,
)
from reckoner.runs.safe_paths import as_name, writing
from reckoner.tasks import gsm8k
from reckoner.tasks.answers import number
from reckoner.tasks.prompts import Prompt

PINNED = ("What is 7 + 5?", "An\u00e9's 3 boxes cost $1,250.75.\n\nWhat does\u00a0half a box cost? ")
"""Their token ids are the identity of a prompt; a changed template, tokenizer or switch changes them."""

PIECE_BATCHES = 2
"""Batches' worth of completions between two points from which a killed evaluation can go on."""


def load_problems(config: Config, split: str) -> list[Problem]:
    """The problems of one split of `config.data`; raises `InputError` where there are none."""
    if problems := gsm8k.load(split, **asdict(config.data)):
        return problems
    raise InputError(
        f"data.dev_size={config.data.dev_size:g} leaves no {split} problems, and they are needed. "
        "Set data.dev_size=0.1"
    )


def make_prompt(config: Config, policy: Encoder) -> Prompt:
    """The prompt of a run: the same object in training, evaluation and prediction.

    Raises `InputError` where the model would not be shown what the settings say.
    """
    wanted = config.prompt.chat_template
    name, has_template = policy.tokenizer.name_or_path, bool(policy.tokenizer.chat_template)
    if wanted == "on" and not has_template:
        raise InputError(
            f"prompt.chat_template=on, but the tokenizer of {name} has no chat template. "
            "Set prompt.chat_template=off"
        )
    chat = has_template and wanted != "off"
    if config.prompt.system and not chat:
        raise InputError(
            "prompt.system is for chats, and this prompt is plain: set prompt.instruction instead"
        )
    if not chat and (control := policy.special.search(config.prompt.template)):
        raise InputError(
            f"prompt.template holds {control[0]}, a control token of {name}, which text never becomes: "
            "leave it out"
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
    messages = prompt.render(PINNED[0])
    if not isinstance(messages, str):
        policy.check_shown(messages, **prompt.chat_template_kwargs)
    elif asked[0][-1] == policy.tokenizer.eos_token_id:
        raise InputError(
            f"the tokenizer of {name} ends every text with EOS, behind which no answer follows: "
            "set add_eos_token to false in its tokenizer_config.json"
        )
    return replace(prompt, digest=hashlib.sha256(dumps(asked).encode()).hexdigest()[:16])


def encode(policy: Encoder, prompt: Prompt, problems: Sequence[Problem]) -> list[Example]:
    """Token ids of each prompt and solution. Raises `InputError` where they are not those of the whole."""
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


def sampling_of(config: Config, policy: Policy, prompt: Prompt, max_new_tokens: int) -> Sampling:
    """The decoding of section `eval`."""
    names = ("temperature", "top_k", "top_p", "num_samples")
    chosen = {name: getattr(config.eval, name) for name in names}
    seed = stream_seed(config.run.seed, "evaluate")
    return replace(greedy(policy, prompt, max_new_tokens), **chosen, seed=seed)


def evaluate(
    run: Run, policy: Policy, split: str, on_progress: Progress = silent, limit: int = 0
) -> dict[str, Any]:
    """Evaluate one split completely, add it to the run's summary and return its entry (see docs/metrics.md).

    `limit` is that of `token_limit` where the caller has it: encoding all train solutions takes over a
    second.
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
    settings = settings_of(policy, prompt, sampling, problems)
    test = opened_test(config) if split == "test" else ""
    session = EvalSession.open(run.folder / paths["predictions"], settings, test)
    reads = _note_opening(run, session, str(paths["predictions"]), len(problems), on_progress)
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
        **count_grades(grades),
        "tokens": tokens,
        "seconds": round(session.seconds, 3),
        "decoding": "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}",
        "samples": sampling.num_samples,
        "max_new_tokens": sampling.max_new_tokens,
        "grader": number.GRADER,
        **{kind: str(path) for kind, path in paths.items()},
        "reads": reads,
    }
    _add_evaluation(run, entry)
    return entry


def evaluate_model(config: Config, on_progress: Progress = silent) -> tuple[Path, dict[str, Any]]:
    """Evaluate any model on `eval.split`: beside the run if it is one, else in a folder of its own."""
    given = Path(config.model.model_name_or_path)
    is_run = (given / "config.yaml").is_file()
    own = config.run.output_dir or f"runs/eval-{as_name(str(given))[-50:]}"
    config.run.output_dir = str(given) if is_run else own
    with Run.open(config, attach=True) as run:
        policy = load_policy(config.model, PeftConfig(), train=False)
        note_backend(run, policy, on_progress, trains=False)
        if not is_run:
            run.pin(policy.base.pins)
        limit = 0 if is_run else _untrained_limit(run, policy, on_progress)
        return run.folder, evaluate(run, policy, config.eval.split, on_progress, limit)


def _untrained_limit(run: Run, policy: Policy, on_progress: Progress) -> int:
    """`eval.max_new_tokens`, or what this model, which is no run of ours, needs on dev."""
    config, prompt = run.config, make_prompt(run.config, policy)
    start = token_limit(config, solution_lengths(policy, prompt, load_problems(config, "train")))
    if config.eval.max_new_tokens:
        return start
    dev = load_problems(config, "dev")
    return dev_limit(run.folder, prompt.digest, lambda: policy, prompt, dev, start, config.eval, on_progress)


def opened_test(config: Config) -> str:
    """The sha256 of the test problems, which names the ledger of their openings."""
    return next(f["sha256"] for f in gsm8k.files(**asdict(config.data)) if f["split"] == "test")


def _note_opening(run: Run, session: EvalSession, predictions: str, n: int, on_progress: Progress) -> int:
    """Write an opening of test into its ledger, say what was opened before, and count this evaluation's."""
    if session.seal is None:
        return 1
    ledger = note_opening(session.seal, run.folder, predictions, session.settings["model"], n)
    same, every = ledger.earlier(session.seal["id"])
    if same and not session.size:
        times = f"{same} time{'s' * (same > 1)}"
        on_progress("seal", 0, 0, f"these weights have opened test {times} before, all models {every}")
    for fault in ledger.faults:
        on_progress("seal", 0, 0, fault)
    return ledger.by_run(run.folder, predictions)


@dataclass
class EvalSession:
    """A predictions file and its note: settings, seconds, size and sha256, and of test its opening.

    Only the bytes that were noted count.
    """

    path: Path
    settings: dict[str, Any]
    seconds: float
    seal: Seal | None
    size: int
    digest: hashlib._Hash

    @classmethod
    def open(cls, path: Path, settings: dict[str, Any], test: str = "") -> EvalSession:
        """Begin or go on; raises `InputError` where settings differ, or the file is not as it was left.

        `test` is the sha256 of test problems. The note holds the id of their opening before the ledger does,
        so that a kill between the two is not counted twice.
        """
        beside = path.with_suffix(".json")
        saved = read_json(beside, Sidecar, missing={})
        if saved and (changed := differences(saved["settings"], settings)):
            raise InputError(f"{path} was made with {changed[0]}. Delete it or use another run.output_dir")
        if not saved and path.is_file() and path.stat().st_size:
            raise InputError(
                f"{path}: has no {beside.name}, which says how it was made. Delete it to generate it again"
            )
        written: Entry = {"size": saved["size"], "sha256": saved["sha256"]} if saved else NOTHING
        digest = cut_to_prefix(
            path, written, f"Put it back, or delete it and {beside.name} to generate it again"
        )
        seal = saved.get("seal") or (new_seal(test) if test else None)
        session = cls(path, settings, saved.get("seconds", 0.0), seal, written["size"], digest)
        with writing(path):
            path.touch()
        session.note()
        return session

    def append(self, text: str, seconds: float) -> None:
        """Add whole lines and note them; a kill between the two costs these lines, never the file."""
        with writing(self.path), open(self.path, "ab") as file:
            self.size += file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self.digest.update(text.encode())
        self.seconds += seconds
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
        write_json(self.path.with_suffix(".json"), noted)


def settings_of(
    policy: Policy, prompt: Prompt, sampling: Sampling, problems: Sequence[Problem]
) -> dict[str, Any]:
    """What must be the same for an evaluation to go on; problems and weights count by their content."""
    weights, questions = (
        hashlib.sha256("".join(map(dumps, values)).encode()).hexdigest()[:16]
        for values in (fingerprint(policy.model).items(), problems)
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

    Problems are generated in fixed pieces, each written when it is whole, since the last bits of log-probs
    depend on which rows share a batch. So the file is the same to the byte, whatever happened on the way.
    """
    config = run.config.eval
    size = max(1, PIECE_BATCHES * config.batch_size // sampling.num_samples)
    pieces = [range(at, min(at + size, len(problems))) for at in range(0, len(problems), size)]
    held, end = whole_pieces(session.path, pieces, sampling.num_samples)
    if end < session.size:
        session.cut(end)
    total = len(problems) * sampling.num_samples
    for piece in pieces[held:]:
        started = time.perf_counter()

        def count(finished: int, before: int = piece[0] * sampling.num_samples) -> None:
            on_progress(phase, before + finished, total, "")

        answered = answers(
            policy,
            prompt,
            [problems[i] for i in piece],
            sampling,
            config,
            run.folder.name,
            keys=piece,
            on_done=count,
        )
        text = "".join(f"{dumps(one.completion)}\n" for one in answered)
        session.append(text, time.perf_counter() - started)


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
        "grader": number.GRADER,
        "status": "finished",
        "evaluations": [],
    }


def _add_evaluation(run: Run, entry: dict[str, Any]) -> None:
    """Put one evaluation into summary.json, in place of an earlier one with the same file.

    A run that trained nothing gets its summary here.
    """
    summary = run.summary or {**describe_run(run, "prompt", "none"), "training": None}
    others = [e for e in summary["evaluations"] if e["predictions"] != entry["predictions"]]
    sidecar = str(Path(entry["predictions"]).with_suffix(".json"))
    written = [entry["problems"], entry["predictions"], entry["grades"], sidecar, "prompt.json"]
    written += ["limits.json"] * (run.folder / "limits.json").is_file()
    run.conclude({**summary, "evaluations": [*others, entry]}, written)


def _paths(run: Run, split: str, prompt: Prompt, sampling: Sampling) -> dict[str, Path]:
    """Where problems, predictions and grades go; sampled ones carry their temperature and count."""
    name = f"{split}-{prompt.name}" + (
        f"-t{sampling.temperature:g}-n{sampling.num_samples}" if sampling.temperature else ""
    )
    paths = {"problems": Path("problems") / f"{split}.jsonl"}
    paths |= {kind: Path(kind) / f"{name}.jsonl" for kind in ("predictions", "grades")}
    for path in paths.values():
        with writing(run.folder / path):
            (run.folder / path).parent.mkdir(exist_ok=True)
    return paths
