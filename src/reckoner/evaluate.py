"""Policy x prompt x split -> completions -> grades, written as they come and resumable after a kill at any moment.

Completions are appended to `predictions/SPLIT-PROMPT.jsonl` as rows finish. A resumed evaluation reads what is there,
drops a torn last line and generates only what is missing; the score is always recomputed from the file.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reckoner.config import Config
from reckoner.engine.generate import Sample, Sampling, generate
from reckoner.faults import InputError
from reckoner.models.policy import Policy
from reckoner.records import Completion, Grade, Problem, dumps, read_records, write_jsonl
from reckoner.runs import Progress, Run, drop_torn_line, silent, stream_seed, write_json, writing
from reckoner.tasks import grading, gsm8k
from reckoner.tasks.prompts import Prompt

PERCENTILE = 0.995
"""Share of the train solutions that fit into max_new_tokens when it is not given (PROTOCOL line 8)."""


def load_problems(config: Config, split: str) -> list[Problem]:
    """The problems of one split of `config.data`; "test" is read only when asked for by name."""
    return gsm8k.load(split, **asdict(config.data))


def make_prompt(config: Config, policy: Policy) -> Prompt:
    """The prompt of a run: the same object in training, evaluation and prediction."""
    wanted = config.prompt.chat_template
    has_template = bool(getattr(policy.tokenizer, "chat_template", None))
    if wanted == "on" and not has_template:
        raise InputError(f"prompt.chat_template=on, but the tokenizer of {policy.name} has no chat template. Set prompt.chat_template=off")
    exemplars = gsm8k.exemplars(**asdict(config.data))[: config.prompt.shots] if config.prompt.shots else []
    return Prompt(config.prompt.template, config.prompt.instruction, tuple(exemplars), chat=has_template and wanted != "off")


def describe_prompt(prompt: Prompt, policy: Policy, example: Problem) -> dict[str, Any]:
    """What prompt.json holds: the prompt as the model saw it, on one example."""
    ids = policy.encode_prompt(prompt.render(example.question))
    return {
        "name": prompt.name,
        "hash": prompt.digest,
        "template": prompt.template,
        "instruction": prompt.instruction,
        "shots": [exemplar.id for exemplar in prompt.exemplars],
        "chat_template": prompt.chat,
        "rendered": policy.tokenizer.decode(ids),
        "token_ids": list(ids),
    }


def token_limit(config: Config, policy: Policy, prompt: Prompt, problems: Sequence[Problem]) -> int:
    """`eval.max_new_tokens`, or the 99.5th percentile of the solutions' tokens, end included; refuses a limit below that."""
    lengths = sorted(len(policy.encode_completion(prompt.answer(problem.solution))) for problem in problems)
    floor = lengths[min(len(lengths) - 1, int(PERCENTILE * len(lengths)))]
    limit = config.eval.max_new_tokens or floor
    if limit < floor:
        raise InputError(
            f"eval.max_new_tokens={limit} would cut right answers: 0.5 % of the train solutions are longer than {floor} tokens. Set it to {floor} or 0"
        )
    return limit


def greedy(policy: Policy, max_new_tokens: int) -> Sampling:
    """The decoding of every comparison: the most likely token, up to a stop token or a new question."""
    return Sampling(max_new_tokens=max_new_tokens, stop_ids=policy.stop_ids, stop_strings=grading.STOP_STRINGS)


def sampling_of(config: Config, policy: Policy, max_new_tokens: int) -> Sampling:
    return Sampling(
        max_new_tokens=max_new_tokens,
        temperature=config.eval.temperature,
        top_k=config.eval.top_k,
        top_p=config.eval.top_p,
        num_samples=config.eval.num_samples,
        seed=stream_seed(config.run.seed, "evaluate"),
        stop_ids=policy.stop_ids,
        stop_strings=grading.STOP_STRINGS,
    )


def evaluate(run: Run, policy: Policy, split: str, on_progress: Progress = silent) -> dict[str, Any]:
    """Evaluate one split completely, add it to the run's summary and return its entry (see docs/metrics.md)."""
    config = run.config
    prompt = make_prompt(config, policy)
    problems = load_problems(config, split)
    limit = token_limit(config, policy, prompt, load_problems(config, "train"))
    name = f"{split}-{prompt.name}"
    paths = {kind: Path(kind) / f"{name if kind != 'problems' else split}.jsonl" for kind in ("problems", "predictions", "grades")}
    for path in paths.values():
        with writing(run.folder / path):
            (run.folder / path).parent.mkdir(exist_ok=True)
    _write_records(run.folder / paths["problems"], problems)
    write_json(run.folder / "prompt.json", describe_prompt(prompt, policy, problems[0]))
    reads = _count_read(run, name)
    seconds = complete(run, policy, prompt, problems, sampling_of(config, policy, limit), run.folder / paths["predictions"], on_progress, split)
    completions = list(read_records(run.folder / paths["predictions"], Completion))
    gold = {problem.id: problem.gold for problem in problems}
    grades = [grading.grade(completion, gold[completion.problem_id]) for completion in completions]
    _write_records(run.folder / paths["grades"], grades)
    entry = {
        "split": split,
        "prompt": prompt.name,
        "prompt_hash": prompt.digest,
        **tally(grades),
        "tokens": sum(completion.token_count for completion in completions),
        "seconds": seconds,
        "decoding": "greedy" if config.eval.temperature == 0 else f"temperature {config.eval.temperature:g}",
        "samples": config.eval.num_samples,
        "max_new_tokens": limit,
        "grader": grading.GRADER,
        **{kind: str(path) for kind, path in paths.items()},
        "reads": reads,
    }
    add_evaluation(run, entry)
    return entry


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


def complete(
    run: Run,
    policy: Policy,
    prompt: Prompt,
    problems: Sequence[Problem],
    sampling: Sampling,
    path: Path,
    on_progress: Progress,
    phase: str,
) -> float:
    """Generate what `path` does not hold yet and put it in the problems' order; returns the seconds spent generating, all sittings."""
    clock = path.with_suffix(".seconds.json")
    spent = float(clock.read_text()) if clock.is_file() else 0.0
    done = {(c["problem_id"], c["sample"]) for c in drop_torn_line(path)} if path.is_file() else set()
    missing = [p for p in problems if any((p.id, s) not in done for s in range(sampling.num_samples))]
    total = len(problems) * sampling.num_samples
    started = time.perf_counter()
    with writing(path), open(path, "a", encoding="ascii", newline="\n") as file:

        def write(index: int, sample: int, result: Sample) -> None:
            key = (missing[index].id, sample)
            if key in done:
                return
            done.add(key)
            file.write(dumps(_completion(run, policy, prompt, missing[index], sample, result)) + "\n")
            if len(done) % 64 == 0:
                file.flush()
                write_json(clock, spent + time.perf_counter() - started)
            on_progress(phase, len(done), total, "")

        prompts = [policy.encode_prompt(prompt.render(problem.question)) for problem in missing]
        generate(policy, prompts, sampling, batch_size=run.config.eval.batch_size, engine=run.config.eval.engine, on_done=write)
        file.flush()
        os.fsync(file.fileno())
    if missing:
        spent += time.perf_counter() - started
        write_json(clock, spent)
        order = {problem.id: index for index, problem in enumerate(problems)}
        completions = sorted(read_records(path, Completion), key=lambda c: (order[c.problem_id], c.sample))
        _write_records(path, completions)
    return spent


def add_evaluation(run: Run, entry: dict[str, Any]) -> None:
    """Put one evaluation into summary.json, in place of an earlier one of the same split and prompt."""
    summary = run.summary
    others = [e for e in summary.get("evaluations", []) if (e["split"], e["prompt"]) != (entry["split"], entry["prompt"])]
    write_json(run.folder / "summary.json", {**summary, "evaluations": [*others, entry]})


def finished_evaluation(run: Run, split: str) -> dict[str, Any] | None:
    """The entry of a split that this run has finished evaluating, or None."""
    return next((entry for entry in run.summary.get("evaluations", []) if entry["split"] == split), None)


def _completion(run: Run, policy: Policy, prompt: Prompt, problem: Problem, sample: int, result: Sample) -> Completion:
    return Completion(
        problem_id=problem.id,
        sample=sample,
        prompt_hash=prompt.digest,
        text=policy.decode(result.ids),
        token_count=len(result.ids),
        finish=result.finish,
        logprob=sum(result.logprobs),
        run=run.folder.name,
    )


def _write_records(path: Path, records: Sequence[Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        write_jsonl(temporary, records)
        os.replace(temporary, path)


def _count_read(run: Run, name: str) -> int:
    """How often this run has opened the problems of an evaluation; a resumed evaluation is one read."""
    path = run.folder / "predictions" / f"{name}.jsonl"
    earlier = next((e["reads"] for e in run.summary.get("evaluations", []) if f"{e['split']}-{e['prompt']}" == name), 0)
    return max(earlier, 0 if path.is_file() else earlier + 1, 1)
