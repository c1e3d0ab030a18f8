"""Policy x prompt x split -> completions -> grades, resumable after a kill at any moment.

Completions are appended to `predictions/SPLIT-PROMPT.jsonl` a piece at a time. A resumed evaluation keeps the
whole pieces that are there and generates only what is missing. The score is always recomputed from the file.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from reckoner import ranks
from reckoner.config import Config, PeftConfig
from reckoner.engine.batches import Example
from reckoner.engine.generate import Sampling
from reckoner.errors import InputError
from reckoner.evaluation.limits import dev_limit, solution_lengths, token_limit
from reckoner.evaluation.sample import answers, ask, greedy, note_backend
from reckoner.evaluation.session import (
    PINNED,
    EvalSession,
    add_evaluation,
    check_generated,
    evaluation_paths,
    has_train,
    load_problems,
    open_session,
    opened_test,
    prompt_of,
    score,
    suite_label,
    whole_pieces,
)
from reckoner.models.chat import Encoder
from reckoner.models.policy import Policy, fingerprint, load_policy
from reckoner.models.sources import VOCABULARY
from reckoner.runs.folder import Progress, Run, read_config, silent, stream_seed
from reckoner.runs.records import Completion, Problem, dumps, read_records, write_json, write_jsonl
from reckoner.runs.safe_paths import as_name
from reckoner.tasks.formats import refuse_stops
from reckoner.tasks.prompts import Prompt

PIECE_BATCHES = 2
"""Batches' worth of completions between two points from which a killed evaluation can go on."""


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
    prompt = prompt_of(config, chat)
    refuse_stops(prompt.exemplars, prompt.stop_strings, "examples of the prompt (prompt.shots)")
    asked = [ask(policy, prompt, question) for question in PINNED]
    refined = config.eval.refine
    messages = prompt.revise(PINNED[0], PINNED[1], refined) if refined else prompt.render(PINNED[0])
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
    names = ("temperature", "top_k", "top_p", "num_samples", "calculator")
    chosen = {name: getattr(config.eval, name) for name in names}
    seed = stream_seed(config.run.seed, "evaluate")
    return replace(greedy(policy, prompt, max_new_tokens), **chosen, seed=seed)


def evaluate(
    run: Run,
    policy: Policy,
    split: str,
    on_progress: Progress = silent,
    limit: int = 0,
    other: Config | None = None,
    name: str = "",
    last: int = 0,
) -> dict[str, Any]:
    """Evaluate one split completely, add it to the run's summary and return its entry (see docs/metrics.md).

    `limit` is that of `token_limit` where the caller has it: encoding all train solutions takes over a
    second. With `other` problems and decoding are those of another configuration, and its suite, or `name`,
    stands for the split; the prompt stays that of the run. `last` takes that many problems from the end.
    """
    config = run.config
    prompt = make_prompt(config, policy)
    asked = other or config
    name = name or (suite_label(other.data.suite) if other else split)
    problems = load_problems(asked, split)[-last:]
    limit = limit or config.eval.max_new_tokens
    limit = limit or token_limit(config, solution_lengths(policy, prompt, load_problems(config, "train")))
    sampling = sampling_of(asked, policy, prompt, limit)
    paths, passes = evaluation_paths(run, name, prompt, asked.eval)
    check_generated(run, paths["predictions"], passes)
    write_jsonl(run.folder / paths["problems"], problems)
    settings = settings_of(policy, prompt, sampling, problems)
    test = opened_test(asked) if split == "test" else ""
    sessions = [open_session(run, test, passes[0], settings, len(problems), on_progress)]
    complete(run, policy, prompt, problems, sampling, sessions[0], on_progress, name)
    for path in passes[1:]:
        again = replace(sampling, num_samples=1, seed=stream_seed(config.run.seed, "refine"))
        sessions.append(refine(run, policy, prompt, problems, again, sessions[0], path, on_progress))
    entry = score(run, sessions, problems, paths, prompt, asked.eval, limit)
    write_json(run.folder / "prompt.json", describe_prompt(prompt, policy, problems[0]))
    add_evaluation(run, entry, passes)
    return entry


def refine(
    run: Run,
    policy: Policy,
    prompt: Prompt,
    problems: Sequence[Problem],
    sampling: Sampling,
    first: EvalSession,
    path: Path,
    on_progress: Progress,
) -> EvalSession:
    """The second pass: each completion of the `first` is shown to the model again, which writes it anew.

    Both passes are one opening of test.
    """
    by_id, drafts = {problem.id: problem for problem in problems}, list(read_records(first.path, Completion))
    request = run.config.eval.refine
    settings = first.settings | {"refine": request, "drafts": first.digest.hexdigest()}
    session = EvalSession.open(run.folder / path, settings, first.seal)
    asked = [by_id[draft.problem_id] for draft in drafts]
    complete(run, policy, prompt, asked, sampling, session, on_progress, "refine", drafts)
    return session


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
        trained = read_config(given / "config.yaml").get("data", {}) if is_run else asdict(config.data)
        other = None if config.data.suite == trained.get("suite", "") else config
        return run.folder, evaluate(run, policy, config.eval.split, on_progress, limit, other)


def _untrained_limit(run: Run, policy: Policy, on_progress: Progress) -> int:
    """`eval.max_new_tokens`, or what this model, which is no run of ours, needs on dev."""
    config, prompt = run.config, make_prompt(run.config, policy)
    if not has_train(config):
        if config.eval.max_new_tokens:
            return config.eval.max_new_tokens
        raise InputError(
            "the limit of an answer follows from train problems, and these test problems have none. "
            "Give the limit, as eval.max_new_tokens=256, or a file of train problems: data.path=FILE"
        )
    start = token_limit(config, solution_lengths(policy, prompt, load_problems(config, "train")))
    if config.eval.max_new_tokens:
        return start
    dev = load_problems(config, "dev")
    name = f"{prompt.digest}-{weights_hash(policy)}"
    return dev_limit(run.folder, name, lambda: policy, prompt, dev, start, config.eval, on_progress)


def settings_of(
    policy: Policy, prompt: Prompt, sampling: Sampling, problems: Sequence[Problem]
) -> dict[str, Any]:
    """What must be the same for an evaluation to go on; what is named by a hash counts by its content.

    What else a tokenizer does than its vocabulary, such as its template, shows in the hash of the prompt.
    """
    questions = hashlib.sha256("".join(map(dumps, problems)).encode()).hexdigest()[:16]
    return {
        "model": weights_hash(policy),
        "prompt_hash": prompt.digest,
        "tokenizer": policy.base.digest(VOCABULARY)[:16],
        "problems": questions,
        "sampling": {k: v for k, v in json.loads(dumps(sampling)).items() if k != "calculator" or v},
    }


def weights_hash(policy: Policy) -> str:
    """16 hex digits that another weight, adapter or dtype changes."""
    return hashlib.sha256("".join(map(dumps, fingerprint(policy.model).items())).encode()).hexdigest()[:16]


def complete(
    run: Run,
    policy: Policy,
    prompt: Prompt,
    problems: Sequence[Problem],
    sampling: Sampling,
    session: EvalSession,
    on_progress: Progress,
    phase: str,
    drafts: Sequence[Completion] = (),
) -> None:
    """Generate what the session's file does not hold yet, and leave the file in the order of the problems.

    Problems are generated in fixed pieces, each written when it is whole, since the last bits of log-probs
    depend on which rows share a batch. So the file is the same to the byte, whatever happened on the way.
    """
    config = run.config.eval
    size = max(1, PIECE_BATCHES * config.batch_size // sampling.num_samples)
    pieces = [range(at, min(at + size, len(problems))) for at in range(0, len(problems), size)]
    held, end = ranks.from_first(lambda: whole_pieces(session.path, pieces, sampling.num_samples))
    if end < session.size:
        session.cut(end)
    if pieces[held:]:
        ranks.from_first(session.go_on)
    if ranks.size() > 1:  # what rank 0 has from before is read by all of them at the end
        before = ranks.from_first(session.path.read_text)
        if run.follows:
            session.append(before, 0.0)
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
            drafts=[drafts[i] for i in piece] if drafts else (),
        )
        text = "".join(f"{dumps(one.completion)}\n" for one in answered)
        session.append(text, time.perf_counter() - started)
