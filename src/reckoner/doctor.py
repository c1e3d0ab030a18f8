"""What a model is and whether it is sound: what `reckon doctor MODEL` prints, with a remedy for every fault.

A fault stops training or evaluation; a note is something to know before a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reckoner.config import Config, PeftConfig
from reckoner.engine.backend import choose, precision_note
from reckoner.engine.batches import Example
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import encode, make_prompt
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.evaluation.sample import Answered, answers, greedy
from reckoner.evaluation.session import load_problems
from reckoner.models.chat import render, thinking_switches
from reckoner.models.policy import Policy, load_policy
from reckoner.plan import Plan, plan
from reckoner.runs.records import Problem, read_json
from reckoner.tasks.prompts import Prompt, audit_labels
from reckoner.training.loop import refuse_unfit

ASKED, MEASURED = 3, 200
"""Dev problems that the model answers, and train problems whose lengths in its tokens the plans take."""

_TURNS = {
    "several turns": (["user", "assistant", "user"], "prompt.shots=0, or prompt.chat_template=off"),
    "a system message": (["system", "user"], "prompt.instruction in place of prompt.system"),
}
_PLANS = [("eval", "prompt", "none"), ("sft", "sft", "none"), ("sft with LoRA", "sft", "lora")]
_PLANS += [("grpo", "grpo", "none"), ("grpo with LoRA", "grpo", "lora")]


@dataclass(frozen=True)
class Finding:
    """One check. A note or a fault says what to do."""

    check: str
    state: Literal["ok", "note", "fault"]
    says: str


@dataclass(frozen=True)
class Examination:
    """All that is known of a model; where a fault stands among the findings, nothing was asked of it.

    `prompt` and `completion` are a train problem as it would be learnt, control tokens included.
    """

    facts: dict[str, Any]
    findings: tuple[Finding, ...]
    prompt: str = ""
    completion: str = ""
    answers: tuple[dict[str, Any], ...] = ()
    tokens_per_second: float = 0.0
    plans: tuple[Plan, ...] = ()
    advice: tuple[str, ...] = ()


def examine(config: Config) -> Examination:
    """Load `config.model`, check it, and let it answer dev problems of `config.data`.

    Raises `InputError` for a model that cannot be loaded, with what to do.
    """
    policy = load_policy(config.model, PeftConfig(), train=False)
    facts, findings = _facts(policy, config), [*_tokens(policy), *_template(policy, config)]
    if policy.device.type == "cpu" and (note := precision_note(config.model.dtype, policy.parameters_total)):
        findings.append(Finding("precision", "note", note))
    train = load_problems(config, "train")
    try:
        prompt = make_prompt(config, policy)
        length, bos = config.train.max_length, policy.tokenizer.bos_token_id
        encoded, drop = encode(policy, prompt, train[:MEASURED]), config.train.drop_long
        examples, _ = audit_labels(encoded, policy.stop_ids, length, bos_id=bos, drop=drop)
        lengths = sorted(map(len, examples)) or [min(map(len, encoded))]
        refuse_unfit(policy, lengths[0], lengths[-1])
        if not examples:
            raise InputError(f"no train problem is as short as train.max_length={length}. Raise it")
    except InputError as error:
        fault = Finding("prompt", "fault", str(error).replace("\n", "; "))
        return Examination(facts, (*findings, fault))
    limit = token_limit(config, solution_lengths(policy, prompt, train))
    answered, speed = _ask(policy, prompt, load_problems(config, "dev")[:ASKED], limit, config)
    if cut := sum(one.completion.finish == "length" for one in answered):
        says = f"{cut} of {len(answered)} were cut at {limit} tokens; eval.max_new_tokens=N allows more"
        findings.append(Finding("answers", "note", says))
    plans, impossible = _plans(config, policy, examples, len(train))
    return Examination(
        facts=facts,
        findings=(*findings, *impossible),
        prompt=policy.tokenizer.decode(examples[0].prompt_ids),
        completion=policy.tokenizer.decode(examples[0].completion_ids),
        answers=tuple(map(_row, answered)),
        tokens_per_second=speed,
        plans=tuple(plans),
        advice=tuple(_advice(policy, speed, plans)),
    )


def _facts(policy: Policy, config: Config) -> dict[str, Any]:
    """What the model is, by name."""
    text, tokenizer = policy.model.config.get_text_config(), policy.tokenizer
    stored = read_json(policy.base.folder / "config.json", any_number=True)
    embedding, head = policy.model.get_input_embeddings().weight, policy.model.get_output_embeddings().weight
    return {
        "model": policy.name,
        "family": text.model_type,
        "parameters": policy.parameters_total,
        "layers": text.num_hidden_layers,
        "hidden size": text.hidden_size,
        "tokens": len(tokenizer),
        "embeddings": len(embedding),
        "LM head": "tied to the embeddings" if head is embedding else "weights of its own",
        "context": getattr(text, "max_position_embeddings", None) or "not stated",
        "stored as": str(stored.get("dtype") or stored.get("torch_dtype") or "unknown"),
        "computed as": policy.note,
        "backend": str(choose(policy, config.eval.engine, trains=True, dropout=False)),
    }


def _tokens(policy: Policy) -> Iterator[Finding]:
    """BOS, EOS, pad and the tokens that end an answer, as they will be used."""
    tokenizer = policy.tokenizer
    opens = tokenizer("1")["input_ids"][0] == tokenizer.bos_token_id
    where = f"it {'opens' if opens else 'does not open'} a plain prompt"
    bos = f"{tokenizer.bos_token!r} is {tokenizer.bos_token_id}; {where}" if tokenizer.bos_token else "none"
    yield Finding("BOS", "ok", bos)
    stops = zip(tokenizer.convert_ids_to_tokens(list(policy.stop_ids)), policy.stop_ids, strict=True)
    ends = ", ".join(f"{token!r} is {index}" for token, index in stops)
    yield Finding("end of an answer", "ok", f"{ends}; plain ones learn {tokenizer.eos_token!r}")
    shared = "; it ends answers too: padding is told by its position"
    pad = f"{tokenizer.pad_token!r} is {tokenizer.pad_token_id}"
    yield Finding("pad", "ok", pad + shared * (tokenizer.pad_token_id in policy.stop_ids))


def _template(policy: Policy, config: Config) -> Iterator[Finding]:
    """What the chat template can show."""
    if not policy.tokenizer.chat_template:
        yield Finding("chat template", "ok", "none: prompts are plain (prompt.template)")
        return
    off = config.prompt.chat_template == "off"
    says = "switched off" + "; prompt.chat_template=on takes it" * policy.shows_turns if off else "taken"
    end = policy.tokenizer.convert_ids_to_tokens(policy.turn_end)
    yield Finding("chat template", "note" if off else "ok", f"{says}; a turn ends with {end!r}")
    turns = _TURNS if policy.shows_turns else {}
    if not turns:
        yield Finding("chat template", "note", "it fails on an answered question; prompts must be plain")
    for what, (roles, remedy) in turns.items():
        try:
            render(policy.tokenizer, [{"role": role, "content": "?"} for role in roles], reply=True)
        except InputError:
            yield Finding("chat template", "note", f"it refuses {what}; use {remedy}")
    for key in thinking_switches(policy.tokenizer.get_chat_template()):
        says = f"prompt.chat_template_kwargs.{key}=false makes the model answer without thinking first"
        yield Finding("thinking", "note", says)


def _ask(
    policy: Policy, prompt: Prompt, problems: Sequence[Problem], limit: int, config: Config
) -> tuple[list[Answered], float]:
    """Greedy answers to `problems`, and the tokens a second of all of them at once."""
    for tokens in (4, limit):  # the first compiles and allocates
        began = time.perf_counter()
        answered = answers(policy, prompt, problems, greedy(policy, prompt, tokens), config.eval)
    seconds = time.perf_counter() - began
    return answered, sum(one.completion.token_count for one in answered) / seconds


def _row(one: Answered) -> dict[str, Any]:
    return {
        "verdict": one.grade.verdict,
        "flexible": one.grade.flexible,
        "gold": one.problem.gold,
        "tokens": one.completion.token_count,
        "question": one.problem.question,
        "answer": one.completion.text.strip(),
    }


def _plans(
    config: Config, policy: Policy, examples: Sequence[Example], train: int
) -> tuple[list[Plan], list[Finding]]:
    """Memory and time here of an evaluation and of training, and what cannot be done as it is set."""
    plans, impossible = [], []
    total, solutions = sum(map(len, examples)), sum(len(one.completion_ids) for one in examples)
    lengths = total / len(examples), solutions / len(examples)
    model = replace(config.model, model_name_or_path=str(policy.base.folder))
    here = "cpu" if policy.device.type == "cpu" else ""
    for name, method, peft in _PLANS:
        own = replace(config, model=model, peft=replace(config.peft, method=peft))
        try:
            plans.append(plan(own, method, name, here, samples=train, lengths=lengths))
        except InputError as error:
            impossible.append(Finding(name, "note", str(error)))
    return plans, impossible


def _advice(policy: Policy, speed: float, plans: Sequence[Plan]) -> Iterator[str]:
    """How fast it is, and the commands to begin with."""
    yield f"{speed:,.0f} tokens a second in {ASKED} answers at once; larger batches are faster"
    yield f"times of: {plans[-1].assumptions[-1]}"
    lora = "" if plans[1].memory.total <= plans[1].available else " peft.method=lora"
    yield f"begin with: reckon eval {policy.name}; reckon sft --init {policy.name}{lora}"
