"""How many tokens a model may write: long enough for its solutions, and the same for all arms of a study.

A trained model writes about as much as the train solutions have. An untrained one writes what it likes, so
that it is asked dev problems under a limit that grows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reckoner import ranks
from reckoner.config import Config, EvalConfig
from reckoner.evaluation.sample import answers, greedy
from reckoner.models.chat import Encoder
from reckoner.models.policy import Policy
from reckoner.runs.documents import Limits
from reckoner.runs.folder import Progress
from reckoner.runs.integrity import changed, read_manifest
from reckoner.runs.records import Problem, read_json, write_json
from reckoner.tasks.prompts import Prompt

FILE = "limits.json"

PERCENTILE = 0.995
"""Share of the train solutions that fit into max_new_tokens when it is not given (PROTOCOL line 8)."""

ASKED = 200
"""Dev problems that an untrained model is asked to find its limit."""

CUT, ENDED = 0.01, 0.02
"""Shares of them: a limit may cut the first; while it cuts more, it doubles if the second then ends."""

FURTHEST = 4
"""How many times longer a limit is tried in vain while most are cut, as of a model that thinks first."""

ENCODED_AT_ONCE = 1024
"""Texts that the tokenizer gets together: enough for all cores, few enough to keep their encodings small."""


def solution_lengths(policy: Encoder, prompt: Prompt, problems: Sequence[Problem]) -> list[int]:
    """Tokens of each reference solution as the model would have to write it, its stop token included.

    What a template writes around an answer is counted once, on the first problem.
    """
    lengths: list[int] = []
    for at in range(0, len(problems), ENCODED_AT_ONCE):
        texts = [prompt.answer(problem.solution) for problem in problems[at : at + ENCODED_AT_ONCE]]
        lengths += map(len, policy.tokenizer(texts, add_special_tokens=False)["input_ids"])
    around = 1
    if problems:
        question, answer = prompt.render(problems[0].question), prompt.answer(problems[0].solution)
        if pair := policy.align(question, answer, **prompt.chat_template_kwargs):
            around = len(pair[1]) - lengths[0]
    return [length + around for length in lengths]


def token_limit(config: Config, lengths: Sequence[int]) -> int:
    """`eval.max_new_tokens`, or the 99.5th percentile of the train solutions' `lengths` in tokens."""
    return (
        config.eval.max_new_tokens or sorted(lengths)[min(len(lengths) - 1, int(PERCENTILE * len(lengths)))]
    )


def dev_limit(
    folder: Path,
    name: str,
    policy: Callable[[], Policy],
    prompt: Prompt,
    problems: Sequence[Problem],
    start: int,
    settings: EvalConfig,
    on_progress: Progress,
) -> int:
    """The tokens, at least `start`, that an untrained policy needs for the first `ASKED` of dev `problems`.

    See `grow`. They are noted in `folder` under `name` once they are found, so that whoever goes on there has
    the same limit.
    """
    known = ranks.from_first(lambda: _noted(folder))
    if name not in known:
        found = _measured(policy(), prompt, problems[:ASKED], start, settings, on_progress)
        write_json(folder / FILE, known := {**known, name: found})
    return known[name]


def _noted(folder: Path) -> Limits:
    """The limits in `folder`, which are found again where they are not those that its finished run left."""
    promised = read_manifest(folder) if (folder / "summary.json").is_file() else {}
    if FILE in promised and any(changed(folder, promised, FILE)):
        return {}
    noted: Limits = read_json(folder / FILE, Limits, missing={})
    return noted


def _measured(
    policy: Policy,
    prompt: Prompt,
    asked: Sequence[Problem],
    start: int,
    settings: EvalConfig,
    on_progress: Progress,
) -> int:
    """What `grow` finds for greedy answers: they begin alike under any limit; only cut ones are repeated."""

    def cut(rows: Sequence[int], limit: int) -> list[int]:
        answered = answers(
            policy,
            prompt,
            [asked[row] for row in rows],
            greedy(policy, prompt, limit),
            settings,
            on_done=lambda done: on_progress("limit", done, len(rows), f"{limit} tokens"),
        )
        return [row for row, one in zip(rows, answered, strict=True) if one.completion.finish == "length"]

    context = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    return grow(cut, len(asked), start, context or 2**31)


def grow(cut: Callable[[Sequence[int], int], list[int]], count: int, start: int, context: int) -> int:
    """The first of `start`, twice `start` and so on up to `context` that is long enough for `count` answers.

    `cut(rows, limit)` gives the rows that do not end within `limit` tokens. A limit is long enough if it cuts
    at most the share `CUT`, or if no more than the share `ENDED` ends within twice as much: then the others
    repeat themselves, as small models do, and no limit would end them.
    """
    limit = enough = start
    left = cut(range(count), limit)
    while len(left) > CUT * count and limit < context:
        limit = min(2 * limit, context)
        before, left = len(left), cut(left, limit)
        if len(left) <= CUT * count or before - len(left) > ENDED * count:
            enough = limit
        elif 2 * len(left) <= count or limit >= FURTHEST * enough:
            break
    return enough


def limit_warning(config: Config, lengths: Sequence[int]) -> str:
    """What a given `eval.max_new_tokens` cuts; empty where none is given or 99.5 % of the solutions fit."""
    limit = config.eval.max_new_tokens
    if not limit or sum(length > limit for length in lengths) <= (1 - PERCENTILE) * len(lengths):
        return ""
    return (
        f"eval.max_new_tokens={limit} cuts right answers: {sum(length > limit for length in lengths):,} of "
        f"{len(lengths):,} train solutions are longer (longest {max(lengths)} tokens). 0 chooses the limit"
    )
