"""What a policy wrote while it learnt, kept as text: rollouts/step-NNNNNN.jsonl, one line a completion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reckoner.errors import InputError
from reckoner.runs.folder import read_config, write_text
from reckoner.runs.records import dumps, read_json_lines
from reckoner.runs.safe_paths import refuse_links, writing

if TYPE_CHECKING:
    from reckoner.training.rollouts import Episode


@dataclass(frozen=True, slots=True)
class Transcript:
    """One completion. `advantages` has one value for each token, or one for all of them.

    Example: `Transcript("nano-train-00012", 3, " 3+4=<<3+4=7>>7\\n#### 7", 1.0, "correct", "stop", -2.1, (221, 14, 1), (0.375,))`.
    """

    problem_id: str
    sample: int
    text: str
    reward: float
    verdict: str
    finish: str
    logprob: float
    token_ids: tuple[int, ...]
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
    write_text(path, "".join(dumps(line) + "\n" for line in lines))


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
    return [_transcript(line, f"{path} line {number}") for number, line in read_json_lines(path)]


def _transcript(line: Mapping[str, Any], where: str) -> Transcript:
    try:
        one = Transcript(**line)
        numbers = all(type(value) in (int, float) for value in (one.reward, one.logprob, *one.advantages))
        ids = all(type(token) is int and token >= 0 for token in (one.sample, *one.token_ids))
    except TypeError as error:
        raise InputError(f"{where}: not rollouts of this version ({error})") from error
    texts = all(isinstance(text, str) for text in (one.problem_id, one.text, one.verdict, one.finish))
    if not (texts and numbers and ids and len(one.advantages) in (1, len(one.token_ids))):
        raise InputError(f"{where}: not rollouts of this version")
    return one


def shades(folder: Path, transcripts: Sequence[Transcript]) -> Iterator[list[tuple[str, float]]]:
    """Each text in pieces with their advantages: a piece for each token, or one where all tokens share one advantage."""
    tokenizer = None
    for one in transcripts:
        if len(one.advantages) == 1:
            yield [(one.text, one.advantages[0])]
            continue
        tokenizer = tokenizer or _tokenizer(folder)
        yield list(zip(pieces(tokenizer, one.token_ids), one.advantages, strict=True))


def _tokenizer(folder: Path) -> Any:
    """That of the model the run in `folder` started from; only a critic's advantages, one a token, need it."""
    from reckoner.models.policy import load_tokenizer
    from reckoner.models.sources import resolve

    model = read_config(folder / "config.yaml")["model"]
    return load_tokenizer(resolve(model["model_name_or_path"], model["revision"], fetch=False))


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; joined they are the text. A token that ends inside a character adds nothing yet."""
    found, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(list(ids[:end]), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if end < len(ids) and text.endswith("\ufffd"):
            text = before
        found.append(text[len(before) :])
        before = text
    return found


def _path(folder: Path, step: int) -> Path:
    return folder / "rollouts" / f"step-{step:06d}.jsonl"
