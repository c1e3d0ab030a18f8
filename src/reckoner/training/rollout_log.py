"""What a policy wrote while it learnt, kept as text: rollouts/step-NNNNNN.jsonl, one line a completion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from reckoner.errors import InputError
from reckoner.runs.folder import read_config
from reckoner.runs.records import read_records, write_jsonl
from reckoner.runs.safe_paths import refuse_links, writing

if TYPE_CHECKING:
    from reckoner.training.rollouts import Episode


Index = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class Transcript:
    """One completion. `advantages` has one value for each token, or one for all of them.

    Example: `Transcript("nano-train-00012", 3, " 3+4=<<3+4=7>>7\\n#### 7", 1.0, "correct", "stop", -2.1,
    (221, 14, 1), (0.375,))`.
    """

    problem_id: str
    sample: Index
    text: str
    reward: float
    verdict: str
    finish: str
    logprob: float
    token_ids: tuple[Index, ...]
    advantages: tuple[float, ...]


def save_rollouts(
    folder: Path, step: int, episodes: Sequence[Episode], advantages: Sequence[Sequence[float]]
) -> None:
    """Write the completions of one step of the run in `folder`; `advantages` follows the episodes."""
    lines = (
        Transcript(
            e.problem.id,
            e.completion.sample,
            e.completion.text,
            round(e.reward, 6),
            e.grade.verdict,
            e.completion.finish,
            round(e.completion.logprob, 3),
            e.example.completion_ids,
            tuple(round(value, 3) for value in row),
        )
        for e, row in zip(episodes, advantages, strict=True)
    )
    path = _path(folder, step)
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    write_jsonl(path, lines)


def kept_steps(folder: Path) -> list[int]:
    """The steps of a run whose completions are kept, ascending. Raises `InputError` where there are none."""
    refuse_links(folder)
    names = (path.stem.removeprefix("step-") for path in (folder / "rollouts").glob("step-*.jsonl"))
    steps = sorted(int(name) for name in names if name.isdecimal() and name.isascii())
    if not steps:
        raise InputError(f"{folder}: no rollouts here; give the folder of a ppo or grpo run")
    return steps


def read_transcripts(folder: Path, step: int) -> list[Transcript]:
    """The completions of one step; raises `InputError` that names the steps there are."""
    steps = kept_steps(folder)
    if step not in steps:
        raise InputError(f"{folder}: no rollouts of step {step}; there are steps {steps[0]} to {steps[-1]}")
    path = _path(folder, step)
    transcripts = list(read_records(path, Transcript))
    for one in transcripts:
        if len(one.advantages) not in (1, len(one.token_ids)):
            counts = f"{len(one.advantages)} advantages for {len(one.token_ids)} tokens"
            raise InputError(f"{path}: problem {one.problem_id} sample {one.sample} has {counts}")
    return transcripts


def shades(folder: Path, transcripts: Sequence[Transcript]) -> Iterator[list[tuple[str, float]]]:
    """Each text in pieces with their advantages: one for each token, or one where all share one advantage.

    Only advantages of single tokens need the tokenizer of the model that the run in `folder` started from.
    """
    tokenizer = None
    for one in transcripts:
        if len(one.advantages) == 1:
            yield [(one.text, one.advantages[0])]
            continue
        if tokenizer is None:
            from reckoner.models.policy import load_tokenizer
            from reckoner.models.sources import resolve

            model = read_config(folder / "config.yaml")["model"]
            tokenizer = load_tokenizer(resolve(model["model_name_or_path"], model["revision"], fetch=False))
        yield list(zip(token_texts(tokenizer, one.token_ids), one.advantages, strict=True))


def token_texts(tokenizer: Any, ids: Sequence[int], skip_special_tokens: bool = True) -> list[str]:
    """The text that each token adds; joined they are the text.

    A token that ends inside a character adds none.
    """
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(
            list(ids[:end]), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        if end < len(ids) and text.endswith("\ufffd"):
            text = before
        texts.append(text[len(before) :])
        before = text
    return texts


def _path(folder: Path, step: int) -> Path:
    return folder / "rollouts" / f"step-{step:06d}.jsonl"
