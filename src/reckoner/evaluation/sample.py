"""The one loop that asks a policy and grades what it says, for dev, test, rollouts and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from reckoner import ranks
from reckoner.config import EvalConfig
from reckoner.engine import backend
from reckoner.engine.generate import Sample, Sampling, generate
from reckoner.engine.served import Served
from reckoner.models.chat import Encoder
from reckoner.models.policy import Policy
from reckoner.runs.folder import Progress, Run
from reckoner.runs.records import Completion, Grade, Problem
from reckoner.tasks.answers.grading import Answer
from reckoner.tasks.arithmetic import annotation_result
from reckoner.tasks.prompts import Prompt


@dataclass(frozen=True)
class Answered:
    """One completion of a problem, with its tokens. It is read at most once, when first graded."""

    problem: Problem
    prompt_ids: list[int]
    completion: Completion
    tokens: Sample

    @cached_property
    def answer(self) -> Answer:
        """What a grader and a reward see of it."""
        return Answer.of(self.completion, self.problem)

    @cached_property
    def grade(self) -> Grade:
        """The verdict. Raises `InputError` where the gold is outside its kind."""
        return replace(self.answer.grade, problem_id=self.problem.id, sample=self.completion.sample)


def ask(policy: Encoder, prompt: Prompt, question: str) -> list[int]:
    """Token ids of one question, up to where the answer begins."""
    return policy.encode_prompt(prompt.render(question), **prompt.chat_template_kwargs)


def greedy(policy: Policy, prompt: Prompt, max_new_tokens: int) -> Sampling:
    """The decoding of every comparison: the most likely token, up to a stop token or a new question."""
    return Sampling(max_new_tokens=max_new_tokens, stop_ids=policy.stop_ids, stop_strings=prompt.stop_strings)


def answers(
    policy: Policy,
    prompt: Prompt,
    problems: Sequence[Problem],
    sampling: Sampling,
    settings: EvalConfig,
    run: str = "",
    keys: Sequence[int] | None = None,
    on_done: Callable[[int], None] = lambda finished: None,
    drafts: Sequence[Completion] = (),
    served: Served | None = None,
) -> list[Answered]:
    """`sampling.num_samples` completions of each problem, problem by problem.

    `run` is the name in their records. `keys` number the problems for the random draws (default: from 0).
    `on_done` is told how many completions are finished. With `drafts`, a first answer to each problem, one
    completion revises each as `settings.refine` asks, and has its number. Each rank completes a share of the
    problems. The process `served`, where there is one, draws in the place of this. Raises `InputError` as
    `generate` does.
    """
    finished, total = 0, len(problems) * sampling.num_samples

    def count(*_: object) -> None:
        nonlocal finished
        finished += 1
        on_done(min(total, finished * ranks.size()))

    shown = [prompt.render(problem.question) for problem in problems]
    if drafts:
        pairs = zip(problems, drafts, strict=True)
        shown = [prompt.revise(problem.question, draft.text, settings.refine) for problem, draft in pairs]
    prompts = [policy.encode_prompt(one, **prompt.chat_template_kwargs) for one in shown]
    calculate = annotation_result if sampling.calculator else None
    mine, numbers = ranks.share(prompts), ranks.share(range(len(prompts)) if keys is None else keys)
    how = settings.batch_size, settings.engine, count, numbers
    if served:
        own = served.generate(policy, mine, sampling, *how)
    else:
        own = generate(policy, mine, sampling, *how, calculate)
    groups = own if ranks.size() == 1 else _gathered(own, len(prompts))
    firsts = [draft.sample for draft in drafts] or [0] * len(problems)
    return [
        Answered(problem, ids, record(policy, prompt, problem, number, tokens, run), tokens)
        for problem, ids, group, first in zip(problems, prompts, groups, firsts, strict=True)
        for number, tokens in enumerate(group, first)
    ]


def _gathered(own: list[list[Sample]], count: int) -> list[list[Sample]]:
    """The completions of all `count` prompts, from the shares of all ranks."""
    shares = ranks.gather([[(one.ids, one.logprobs, one.finish) for one in group] for group in own])
    groups = (shares[at % ranks.size()][at // ranks.size()] for at in range(count))
    return [[Sample(tuple(ids), tuple(logprobs), end) for ids, logprobs, end in group] for group in groups]


def note_backend(
    run: Run, policy: Policy, on_progress: Progress, served: Served | None = None, **how: bool
) -> None:
    """Say what computes this run, and store it in environment.json unless the run has finished.

    `served` draws the rollouts, where there is one. `how`: see `backend.choose`.
    """
    line = str(backend.choose(policy, run.config.eval.engine, **how))
    line += f" · rollouts: {served.name} in a second process" if served else ""
    on_progress("backend", 0, 0, line)
    run.note_environment(backend=line)


def record(
    policy: Policy, prompt: Prompt, problem: Problem, number: int, tokens: Sample, run: str = ""
) -> Completion:
    """The record of sample `number` of a problem."""
    return Completion(
        problem_id=problem.id,
        sample=number,
        prompt_hash=prompt.digest,
        text=policy.decode(tokens.ids),
        token_count=len(tokens.ids),
        finish=tokens.finish,
        logprob=sum(tokens.logprobs),
        run=run,
        answer_format=prompt.answer_format,
    )
