"""What every training run does besides its equations: prepare the data, resume, save, evaluate on dev, keep the best, finish.

The algorithms call these in the order they stand. All that decides how a run goes on is in its
checkpoints, so a killed run continues exactly where its last checkpoint stands.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError

from reckoner.engine.batches import Example, collate, micro_batches
from reckoner.engine.generate import generate
from reckoner.engine.logprobs import cross_entropy
from reckoner.engine.optim import NonFinite
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import (
    ask,
    completion_of,
    describe_prompt,
    encode,
    greedy,
    load_problems,
    make_prompt,
    tally,
    token_limit,
)
from reckoner.machine import keep_freed_memory, peak_memory_bytes
from reckoner.models.policy import Policy, fingerprint
from reckoner.models.sources import TOKENIZER
from reckoner.runs import checkpoints
from reckoner.runs.folder import Progress, Run, write_json
from reckoner.runs.integrity import NOTHING
from reckoner.runs.records import Grade, Problem, read_json
from reckoner.runs.safe_paths import publish, writing
from reckoner.tasks import gsm8k
from reckoner.tasks.answers import number
from reckoner.tasks.formats import refuse_stops
from reckoner.tasks.prompts import Prompt, audit_labels

LAST = 50
"""`loss_final` is the mean training loss of this many last logged steps, or of the last tenth of a shorter log."""

Optimizers = Mapping[str, tuple[torch.nn.Module, torch.optim.Optimizer]]
"""What a checkpoint holds: name -> (module whose trainable weights are saved, its optimizer)."""


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is watched on. `problems` and `examples` are the same items in the same order."""

    prompt: Prompt
    problems: Sequence[Problem]
    examples: Sequence[Example]
    dev_examples: Sequence[Example]
    dev_problems: Sequence[Problem]
    max_new_tokens: int


@dataclass
class TrainState:
    """Where a run is: its step, what it has cost so far, and its dev evaluations, which decide what is kept. All of it is
    in each checkpoint, so that no file that is easily edited decides anything.

    `start` is the fingerprint of the weights before step 1.
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    start: Mapping[str, str] = field(default_factory=dict)

    def advance(self, examples: Sequence[Example], seconds: float) -> None:
        """Count one optimizer step over `examples`."""
        self.step += 1
        self.samples += len(examples)
        self.tokens += sum(map(len, examples))
        self.supervised_tokens += sum(len(e.completion_ids) for e in examples)
        self.seconds += seconds

    @property
    def costs(self) -> dict[str, Any]:
        names = ("step", "samples", "tokens", "supervised_tokens", "flops")
        return {**{name: getattr(self, name) for name in names}, "seconds": round(self.seconds, 3)}

    @property
    def evaluated(self) -> bool:
        return any(line["step"] == self.step for line in self.evaluations)

    @property
    def best_step(self) -> int:
        """The step with the most dev problems solved; of equals the one with the lowest dev loss."""
        return checkpoints.best_step(self.evaluations)

    def stale(self) -> int:
        """Evaluations since the best one."""
        return sum(line["step"] > self.best_step for line in self.evaluations)


def prepare(run: Run, policy: Policy) -> TrainingData:
    """Load, lint, encode and audit, in a process that keeps its memory; data.json and prompt.json are written before anything trains."""
    keep_freed_memory()
    config = run.config
    prompt = make_prompt(config, policy)
    problems, dev_problems = load_problems(config, "train"), load_problems(config, "dev")
    refuse_stops(problems, prompt.stop_strings)
    length, bos = config.train.max_length, policy.tokenizer.bos_token_id
    examples, dropped = audit_labels(
        encode(policy, prompt, problems), policy.stop_ids, length, bos_id=bos, drop=config.train.drop_long
    )
    watched = dev_problems[: config.eval.dev_samples or None]
    dev_examples, _ = audit_labels(
        encode(policy, prompt, watched), policy.stop_ids, length, bos_id=bos, drop=True
    )
    if not examples or not dev_examples:
        raise InputError(
            f"no {'dev' if examples else 'train'} problem is as short as train.max_length={length}. Raise it"
        )
    lengths = sorted(map(len, examples))
    _refuse_unfit(policy, lengths[-1], [*examples, *dev_examples])
    limit = token_limit(config, [len(e.completion_ids) for e in examples])
    files = gsm8k.files(**asdict(config.data))
    data = {f"data file {part['path']}": part["sha256"] for part in files}
    run.pin(
        {
            **data,
            "base model": policy.base.digest(),
            "tokenizer": policy.base.digest(TOKENIZER),
            "prompt": prompt.digest,
        }
    )
    write_json(
        run.folder / "data.json",
        {
            "source": config.data.source,
            "variant": config.data.variant,
            "files": files,
            "sizes": {"train": len(examples), "dev": len(dev_problems)},
            "supervised_tokens": sum(len(e.completion_ids) for e in examples),
            "dropped": dropped,
            "lengths": {
                "min": lengths[0],
                "median": lengths[len(lengths) // 2],
                "max": lengths[-1],
                "max_length": config.train.max_length,
                "max_new_tokens": limit,
            },
        },
    )
    write_json(run.folder / "prompt.json", describe_prompt(prompt, policy, problems[0]))
    kept = {e.id for e in examples}
    return TrainingData(
        prompt=prompt,
        problems=[p for p in problems if p.id in kept],
        examples=examples,
        dev_examples=dev_examples,
        dev_problems=watched,
        max_new_tokens=limit,
    )


def _refuse_unfit(policy: Policy, longest: int, examples: Sequence[Example]) -> None:
    """Raises `InputError` where the model's context or embeddings are too small for these token ids."""
    context = getattr(policy.model.config, "max_position_embeddings", longest)
    if longest > context:
        raise InputError(
            f"the longest problem has {longest} tokens and {policy.name} reads {context}. Set train.max_length={context} train.drop_long=true"
        )
    known = policy.model.get_input_embeddings().weight.shape[0]
    if foreign := next((e for e in examples if max((*e.prompt_ids, *e.completion_ids)) >= known), None):
        raise InputError(
            f"problem {foreign.id} has tokens that the {known:,} embeddings of {policy.name} do not know: its tokenizer is another model's"
        )


def resume(run: Run, optimizers: Optimizers, on_progress: Progress) -> TrainState:
    """Put the newest verified checkpoint back, if there is one, and cut the metrics to what it knew of them.

    The modules come with the weights that the run began with.
    """
    checkpoints.tidy(run.folder / "checkpoints")
    found = checkpoints.newest(
        run.folder / "checkpoints", lambda message: on_progress("resume", 0, 0, message)
    )
    state = found.state if found else None
    run.rewind(state["metrics"] if state else NOTHING)
    policy, _ = optimizers["policy"]
    position = TrainState(start=fingerprint(policy))
    if found is None or state is None:
        return position
    for name, (module, optimizer) in optimizers.items():
        checkpoints.restore_weights(module, found.tensors(name))
        checkpoints.restore_optimizer(module, optimizer, found.tensors(f"{name}-optimizer"))
    for name in (*position.costs, "evaluations"):
        setattr(position, name, state[name])
    return position


def save(run: Run, optimizers: Optimizers, position: TrainState) -> None:
    """Write the checkpoint of this position and delete those that are neither new nor best; `NonFinite` where it would be of no use."""
    groups = {}
    for name, (module, optimizer) in optimizers.items():
        groups[name] = checkpoints.trainable(module)
        groups[f"{name}-optimizer"] = checkpoints.optimizer_tensors(module, optimizer)
    broken = [
        key for tensors in groups.values() for key, tensor in tensors.items() if not tensor.isfinite().all()
    ]
    if broken:
        raise NonFinite(f"{broken[0]} holds values that are not finite: step {position.step} is not saved")
    folder = run.folder / "checkpoints"
    state = {**position.costs, "evaluations": position.evaluations, "metrics": run.flush()}
    checkpoints.save(folder, position.step, groups, state)
    best = {position.best_step} if position.evaluations else set()
    checkpoints.prune(folder, run.config.run.save_total_limit, best)


@contextmanager
def stopping(run: Run, optimizers: Optimizers, step: int, problems: Sequence[str]) -> Iterator[None]:
    """Where a number of this step is not finite, write nonfinite.json (problems of the batch, norm of each gradient), and stop."""
    try:
        yield
    except NonFinite as error:
        gradients = {
            f"{name}/{key}": p.grad
            for name, (module, _) in optimizers.items()
            for key, p in module.named_parameters()
        }
        norms = {
            key: str(gradient.norm().item()) for key, gradient in gradients.items() if gradient is not None
        }
        path = run.folder / "nonfinite.json"
        write_json(
            path, {"step": step, "reason": str(error), "problems": list(problems), "gradient_norms": norms}
        )
        raise NonFinite(
            f"step {step}: {error}. The batch is in {path}; the checkpoints are from before"
        ) from error


def evaluate_dev(
    run: Run, policy: Policy, material: TrainingData, position: TrainState, on_progress: Progress
) -> None:
    """Dev loss, token accuracy and greedy exact match at this position, as one line of metrics.jsonl."""
    policy.model.eval()
    loss, hits, examples = 0.0, 0, material.dev_examples
    count = sum(len(example.completion_ids) for example in examples)
    longest = max(map(len, examples)) * run.config.train.per_device_train_batch_size
    with torch.no_grad(), policy.autocast():
        for indices in micro_batches(range(len(examples)), [len(example) for example in examples], longest):
            batch = collate([examples[i] for i in indices], policy.tokenizer.pad_token_id, policy.device)
            negative_log_likelihood, correct = cross_entropy(policy.model, batch)
            loss, hits = loss + negative_log_likelihood.item(), hits + int(correct)
    if not math.isfinite(loss):
        raise NonFinite(
            f"the dev loss of step {position.step} is {loss}: the weights are ruined; the checkpoints are from before"
        )
    counts = tally(_solve(run, policy, material, on_progress))
    line = {
        **position.costs,
        "dev_loss": loss / count,
        "dev_token_accuracy": hits / count,
        "dev_strict": counts["strict"],
        "dev_flexible": counts["flexible"],
        "dev_n": counts["n"],
    }
    run.log(**line)
    position.evaluations.append(line)
    on_progress("dev", counts["n"], counts["n"], f"dev {100 * counts['strict'] / counts['n']:.1f} %")
    policy.model.train()


def _solve(run: Run, policy: Policy, material: TrainingData, on_progress: Progress) -> list[Grade]:
    """Greedy grades of the dev problems that are generated during training."""
    problems = material.dev_problems
    prompts = [ask(policy, material.prompt, p.question) for p in problems]
    finished = 0

    def count(index: int, sample: int, result: object) -> None:
        nonlocal finished
        finished += 1
        on_progress("dev", finished, len(problems), "")

    samples = generate(
        policy,
        prompts,
        greedy(policy, material.prompt, material.max_new_tokens),
        batch_size=run.config.eval.batch_size,
        engine=run.config.eval.engine,
        on_done=count,
    )
    return [
        number.grade(
            completion_of(run.folder.name, policy, material.prompt, problem, 0, sample), problem.gold
        )
        for problem, (sample,) in zip(problems, samples, strict=True)
    ]


def finish(
    run: Run, policy: Policy, optimizers: Optimizers, position: TrainState, method: str
) -> dict[str, Any]:
    """Keep the best weights as `model/`, loadable by transformers or peft alone, and write the summary.

    Raises `RuntimeError` where training changed what was frozen, `InputError` where it did not change what it trained.
    """
    check_weights(*optimizers["policy"], position.start)
    best = position.best_step
    if best != position.step:
        (name, (module, _)), *_ = optimizers.items()
        checkpoints.restore_weights(
            module, checkpoints.at_step(run.folder / "checkpoints", best).tensors(name)
        )
    _replace_folder(run, policy)
    config = run.config
    losses = [line["loss"] for line in run.metrics() if "loss" in line]
    tail = losses[-min(LAST, max(1, len(losses) // 10)) :]
    first, last = position.evaluations[0], next(line for line in position.evaluations if line["step"] == best)
    summary = {
        "name": run.folder.name,
        "method": method,
        "peft": config.peft.method,
        "variant": config.data.variant,
        "init": config.model.model_name_or_path,
        "seed": config.run.seed,
        "grader": number.GRADER,
        "status": "finished",
        "evaluations": [],
        "training": {
            **position.costs,
            "steps": position.step,
            "epochs": round(position.samples / read_json(run.folder / "data.json")["sizes"]["train"], 4),
            "peak_memory_bytes": peak_memory_bytes(),
            "parameters": policy.parameters_total,
            "trainable_parameters": policy.parameters_trainable,
            "loss_first": losses[0] if losses else None,
            "loss_final": sum(tail) / len(tail) if tail else None,
            "dev_loss_first": first["dev_loss"],
            "dev_loss_final": last["dev_loss"],
            "learning_rate": config.train.learning_rate,
            "best_step": best,
        },
    }
    run.conclude(summary)
    return summary


def check_weights(model: torch.nn.Module, optimizer: torch.optim.Optimizer, start: Mapping[str, str]) -> None:
    """Frozen weights must be as in the fingerprint `start`, and those that got a gradient must not."""
    now = fingerprint(model)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad and now[name] != start[name]:
            raise RuntimeError(f"{name} is frozen and has changed")
        moments = (
            value
            for value in optimizer.state.get(parameter, {}).values()
            if torch.is_tensor(value) and value.dim()
        )
        if now[name] == start[name] and any(bool(moment.any()) for moment in moments):
            raise InputError(
                f"{name} has not changed in the whole run: train.learning_rate is too small to reach the weights"
            )


def _replace_folder(run: Run, policy: Policy) -> None:
    """Save `model/` under another name first, so that a kill leaves no half model."""
    final, temporary = run.folder / "model", run.folder / ".tmp-model"
    with writing(final):
        shutil.rmtree(temporary, ignore_errors=True)
        weights = sum(tensor.nbytes for tensor in checkpoints.trainable(policy.model).values())
        tokenizer = sum(
            path.stat().st_size for pattern in TOKENIZER for path in policy.base.folder.glob(pattern)
        )
        checkpoints.check_space(run.folder, weights + tokenizer)
        try:
            policy.save(temporary)
        except SafetensorError as error:
            raise OSError(None, str(error)) from error
        publish(temporary, final)
