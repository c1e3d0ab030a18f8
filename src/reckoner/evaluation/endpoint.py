"""Asking an OpenAI-compatible server (vLLM, SGLang, llama.cpp, Ollama, a hosted model) the same questions.

Prompts, grader and files are those of `evaluate`. Requests run side by side; each answer is on the disk
before the next one is counted, in the order of arrival, so that a kill loses only what is under way.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any

from reckoner.config import Config
from reckoner.errors import InputError, Stopped
from reckoner.evaluation.server import Caller, Passing, first_choice
from reckoner.evaluation.session import (
    PINNED,
    EvalSession,
    add_evaluation,
    check_generated,
    evaluation_paths,
    load_problems,
    note_opened,
    opened_test,
    prompt_of,
    score,
)
from reckoner.runs.folder import Progress, Run, silent, stream_seed
from reckoner.runs.ledger import new_seal
from reckoner.runs.records import Completion, Problem, dumps, read_records, write_json, write_jsonl
from reckoner.runs.safe_paths import as_name
from reckoner.tasks.answers.reading import NEW_PROBLEM, finish_of
from reckoner.tasks.prompts import Prompt
from reckoner.tasks.tables import text_of

DEFAULT_MAX_NEW_TOKENS = 1024
"""A server does not say how long solutions are in its tokens, and asking it to find out would cost money."""

Answered = tuple[Completion, dict[str, int]]
"""A completion, and the tokens that the server counted for it."""

COUNTED = ("prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class Ask:
    """What is sent with every question."""

    url: str
    model: str
    prompt: Prompt
    max_new_tokens: int
    temperature: float
    top_p: float
    num_samples: int
    seed: int
    extra: Mapping[str, Any]

    def body(self, question: str, sample: int) -> dict[str, Any]:
        """The request of one sample; a value of None takes a field out."""
        asked = self.prompt.render(question)
        plain = isinstance(asked, str)
        fields = {
            "model": self.model,
            **({"prompt": asked, "stop": list(NEW_PROBLEM)} if plain else {"messages": asked}),
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            **({"top_p": self.top_p} if self.top_p < 1 else {}),
            **({"seed": (self.seed + sample) % 2**31} if self.temperature else {}),
        }
        return {**fields, **self.extra}

    def identity(self, problems: Sequence[Problem]) -> dict[str, Any]:
        """What must be the same for an evaluation to go on."""
        questions = hashlib.sha256("".join(map(dumps, problems)).encode()).hexdigest()[:16]
        names = ("temperature", "top_p", "num_samples", "max_new_tokens", "seed")
        sampling = {name: getattr(self, name) for name in names} | {"extra": dict(self.extra)}
        shown = {"endpoint": self.url, "model": self.model, "prompt_hash": self.prompt.digest}
        return {**shown, "problems": questions, "sampling": json.loads(dumps(sampling))}


def asking(config: Config, caller: Caller) -> Ask:
    """What the settings ask for; raises `InputError` for what a server does not give."""
    chosen, limits = config.endpoint, config.eval
    if limits.calculator:
        raise InputError("eval.calculator forces tokens, which needs a model that runs here. Leave it out")
    if limits.select in ("weighted", "best"):
        raise InputError(
            f"eval.select={limits.select} needs log-probs, which are not asked of a server. "
            "Set eval.select=majority"
        )
    if limits.refine:
        raise InputError("eval.refine asks a second time, which needs a model that runs here. Leave it out")
    prompt = prompt_of(config, chat=config.prompt.chat_template != "off")
    if prompt.chat_template_kwargs:
        raise InputError(
            "prompt.chat_template_kwargs is for templates that run here. "
            "Set endpoint.extra.chat_template_kwargs where the server knows it"
        )
    shown = dumps([prompt.render(question) for question in PINNED])
    return Ask(
        f"{caller.url}/chat/completions" if prompt.chat else f"{caller.url}/completions",
        config.model.model_name_or_path,
        replace(prompt, digest=hashlib.sha256(shown.encode()).hexdigest()[:16]),
        limits.max_new_tokens or DEFAULT_MAX_NEW_TOKENS,
        limits.temperature,
        limits.top_p,
        limits.num_samples,
        stream_seed(config.run.seed, "evaluate"),
        chosen.extra,
    )


def evaluate_endpoint(
    config: Config, on_progress: Progress = silent, sleep: Callable[[float], None] = time.sleep
) -> tuple[Path, dict[str, Any]]:
    """Evaluate the model of a server on `eval.split`, in a run folder of its own; resumable.

    Raises `Stopped` where the server keeps failing, and `InputError` where it refuses.
    """
    caller = Caller(config.endpoint, sleep)
    ask = asking(config, caller)
    config.run.output_dir = config.run.output_dir or f"runs/eval-{as_name(ask.model)[-50:]}"
    with Run.open(config, attach=True) as run:
        split = config.eval.split
        problems = load_problems(config, split)
        paths, passes = evaluation_paths(run, split, ask.prompt, config.eval)
        check_generated(run, paths["predictions"], passes)
        write_jsonl(run.folder / paths["problems"], problems)
        settings = ask.identity(problems)
        test = opened_test(config) if split == "test" else ""
        seal = new_seal(test) if test else None
        session = EvalSession.open(run.folder / passes[0], settings, seal)
        held = {(one.problem_id, one.sample) for one in read_records(session.path, Completion)}
        wanted = [(p, n) for p in problems for n in range(ask.num_samples) if (p.id, n) not in held]
        if wanted:
            session.go_on()
        client, total = EndpointClient(ask, caller), len(problems) * ask.num_samples
        since, done, opened = time.perf_counter(), len(held), False
        for arrived in chain([[]] if held else [], client.answers(wanted)):
            if not opened:  # a start that got no answer has opened nothing
                note_opened(run, session, passes[0], len(problems), on_progress)
                opened = True
            now = time.perf_counter()
            text = "".join(f"{dumps(replace(one, run=run.folder.name))}\n" for one, _ in arrived)
            session.append(text, now - since, sum((Counter(usage) for _, usage in arrived), Counter()))
            since, done = now, done + len(arrived)
            on_progress(split, done, total, client.note(session.usage))
        entry = score(run, [session], problems, paths, ask.prompt, config.eval, ask.max_new_tokens)
        entry |= {"endpoint": ask.url, "usage": session.usage, "cost": client.cost(session.usage)}
        rendered = ask.prompt.render(problems[0].question)
        shown = rendered if isinstance(rendered, str) else dumps(rendered)
        about = {"name": ask.prompt.name, "hash": ask.prompt.digest, "rendered": shown, "token_ids": []}
        write_json(run.folder / "prompt.json", about)
        add_evaluation(run, entry, passes)
        return run.folder, entry


class EndpointClient:
    """Sends the questions, at most `endpoint.concurrency` at once."""

    def __init__(self, ask: Ask, caller: Caller) -> None:
        self.ask, self.caller, self.settings, self.lock = ask, caller, caller.settings, Lock()

    def answers(self, wanted: Sequence[tuple[Problem, int]]) -> Iterator[list[Answered]]:
        """Completions with their tokens as they arrive, those that came meanwhile together.

        After a failure that stays nothing more is asked; what is under way is waited for, since it is paid.
        """
        todo, done = iter(wanted), SimpleQueue[Any]()

        def work() -> None:
            try:
                while not self.caller.failed.is_set():
                    with self.lock:
                        item = next(todo, None)
                    if item is None:
                        return
                    done.put(self._answer(*item))
            except (InputError, Stopped) as error:
                self.caller.failed.set()
                done.put(error)
            finally:
                done.put(None)

        running, missing, failure = min(self.settings.concurrency, len(wanted)), len(wanted), None
        for _ in range(running):
            Thread(target=work, daemon=True).start()
        while running:
            arrived: list[Answered] = []
            for outcome in [done.get(), *(done.get() for _ in range(done.qsize()))]:
                running -= outcome is None
                if isinstance(outcome, Exception):
                    failure = failure or outcome
                elif outcome is not None:
                    arrived.append(outcome)
            missing -= len(arrived)
            if arrived:
                yield arrived
        if failure:
            raise failure
        if missing:
            raise RuntimeError("a request failed by a bug; its traceback stands above")

    def note(self, usage: Mapping[str, int]) -> str:
        """Tries repeated and money spent so far, for the progress line."""
        cost, retried = self.cost(usage), f"{self.caller.retried} repeated" if self.caller.retried else ""
        return ", ".join(filter(None, (retried, f"cost {cost:.2f}" if cost is not None else "")))

    def cost(self, usage: Mapping[str, int]) -> float | None:
        """Price of the tokens that the server counted; None where no price is given."""
        prices = self.settings.price_prompt, self.settings.price_completion
        if not any(prices):
            return None
        return sum(price * usage.get(name, 0) for price, name in zip(prices, COUNTED, strict=True)) / 1e6

    def _answer(self, problem: Problem, sample: int) -> Answered:
        ask = self.ask

        def read(answer: Any) -> Answered:
            return _read(answer, problem, sample, ask.prompt)

        return self.caller.send(ask.url, ask.body(problem.question, sample), read, f"problem {problem.id}")


def _read(answer: Any, problem: Problem, sample: int, prompt: Prompt) -> Answered:
    """The completion in a server's answer, and the tokens that it counted."""
    choice = first_choice(answer)
    holder = choice.get("message", choice)
    if not isinstance(holder, dict):
        raise Passing("an answer without a message in its first choice")
    finish = finish_of(choice.get("finish_reason")) or "stop"
    text = text_of(holder.get("content", holder.get("text")))
    if text is None and {"content", "text"} & holder.keys():  # it thought or refused, and said nothing
        text = ""
    if not isinstance(text, str):
        raise Passing("an answer without a text (choices.0.message.content or choices.0.text)")
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    counts = {name: usage[name] for name in COUNTED if type(usage.get(name)) is int and usage[name] >= 0}
    tokens = counts.get("completion_tokens", 0)
    named = problem.id, sample, prompt.digest
    return Completion(*named, text, tokens, finish, 0.0, "", prompt.answer_format), counts
