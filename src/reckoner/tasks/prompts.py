"""The one place where prompt text is written.

Training, reinforcement learning and evaluation render the same object.

One plain prompt with an exemplar, `·` marking the space that belongs to the answer:

    You are a helpful math assistant.

    Question: Weng earns $12 an hour ...
    Answer:·Weng earns 12/60 = ...
    #### 10

    Question: Betty is saving ...
    Answer:

The space begins the answer because tokenizers fuse it with the next word: a prompt that ends in a space asks
for a word that never follows one, and the original study lost the first sub-question of every answer that
way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks.answers.marking import MARKER, mark
from reckoner.tasks.answers.reading import END_TOKENS, STOP_STRINGS

SLOT = "{question}"
DEFAULT_TEMPLATE = f"Question: {SLOT}\nAnswer:"
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """How a question becomes what the model sees.

    `template` is for plain prompts; a chat holds the bare question.

    `system` and `chat_template_kwargs` are for chats. `digest` is the stored prompt hash, which `make_prompt`
    fills in. Raises `InputError` for a template without `{question}` or with white space at its end.
    """

    template: str = DEFAULT_TEMPLATE
    instruction: str = ""
    exemplars: tuple[Problem, ...] = ()
    chat: bool = False
    system: str = ""
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""
    answer_format: str = MARKER

    def __post_init__(self) -> None:
        if SLOT not in self.template:
            raise InputError(
                f"prompt.template={self.template!r} has no {SLOT}: put it where the question goes"
            )
        if self.template != self.template.rstrip():
            raise InputError(
                f"prompt.template={self.template!r} ends in white space, which tokenizers fuse with the "
                "answer: "
                f"end it with {self.template.rstrip()[-10:]!r}; the answer begins with the space"
            )

    @property
    def name(self) -> str:
        """`0shot`, `1shot-instruction`, `chat-0shot`: part of file names; `digest` tells prompts apart."""
        instruction = "-instruction" if self.instruction else ""
        return f"{'chat-' if self.chat else ''}{len(self.exemplars)}shot{instruction}"

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Strings that end a completion: the end of a chat turn, or for a plain prompt a new question."""
        return END_TOKENS if self.chat else STOP_STRINGS

    def render(self, question: str) -> str | Messages:
        """The prompt of one question: text, or for a chat the messages that end with the user's.

        Some templates know no system role, so that the instruction opens the first user turn.
        """
        if self.chat:
            turns = [(shot.question, self.answer(shot.solution)) for shot in self.exemplars]
            messages = [
                {"role": role, "content": content}
                for turn in turns
                for role, content in zip(("user", "assistant"), turn, strict=True)
            ]
            messages.append({"role": "user", "content": question})
            messages[0]["content"] = self._after_instruction(messages[0]["content"])
            return [{"role": "system", "content": self.system}] * bool(self.system) + messages
        shots = [self._ask(shot.question) + self.answer(shot.solution) for shot in self.exemplars]
        return self._after_instruction("\n\n".join([*shots, self._ask(question)]))

    def revise(self, question: str, draft: str, request: str) -> str | Messages:
        """The prompt of a second pass: the first, its answer `draft`, and `request` as the next question."""
        asked = self.render(question)
        if isinstance(asked, str):
            return f"{asked} {draft.strip()}\n\n{self._ask(request)}"
        turns = ("assistant", draft), ("user", request)
        return [*asked, *({"role": role, "content": content} for role, content in turns)]

    def answer(self, solution: str) -> str:
        """The text that follows the prompt: the solution with its answer in the prompt's format, after one
        space where the prompt is plain."""
        marked = mark(solution, self.answer_format)
        return marked if self.chat else f" {marked}"

    def _ask(self, question: str) -> str:
        return self.template.replace(SLOT, question)

    def _after_instruction(self, text: str) -> str:
        return f"{self.instruction}\n\n{text}" if self.instruction else text


class Tokenized(Protocol):
    """A prompt and its completion as ids; `completion_ids` are the supervised tokens."""

    @property
    def id(self) -> str: ...
    @property
    def prompt_ids(self) -> Sequence[int]: ...
    @property
    def completion_ids(self) -> Sequence[int]: ...


Row = TypeVar("Row", bound=Tokenized)


def audit_labels(
    rows: Sequence[Row],
    stop_ids: Collection[int],
    max_length: int,
    *,
    bos_id: int | None = None,
    drop: bool = False,
) -> tuple[list[Row], list[str]]:
    """The rows that fit `max_length` (prompt + completion), and the ids of those that do not.

    Each row must have supervised tokens, one stop token, which ends it, and no doubled BOS in front. Raises
    `InputError` for rows that fail this, and for rows over `max_length` unless `drop`; no answer is ever cut.
    """
    faults: dict[str, list[str]] = {}
    for row in rows:
        if fault := _label_fault(row, stop_ids, bos_id):
            faults.setdefault(fault, []).append(row.id)
    if faults:
        lines = (
            f"problem {ids[0]}: {fault} ({len(ids):,} of {len(rows):,} rows)" for fault, ids in faults.items()
        )
        raise InputError("\n".join(lines))
    lengths = [len(row.prompt_ids) + len(row.completion_ids) for row in rows]
    long = [row.id for row, length in zip(rows, lengths, strict=True) if length > max_length]
    if long and not drop:
        longest = max(lengths)
        raise InputError(
            f"{len(long):,} of {len(rows):,} problems are longer than max_length={max_length} (longest "
            f"{longest:,}) and would "
            f"lose their answer. Set train.max_length={-(-longest // 32) * 32}, or train.drop_long=true to "
            f"leave them out. The first is {long[0]}"
        )
    return [row for row, length in zip(rows, lengths, strict=True) if length <= max_length], long


def _label_fault(row: Tokenized, stop_ids: Collection[int], bos_id: int | None) -> str:
    stops = [index for index, token in enumerate(row.completion_ids) if token in stop_ids]
    if len(row.completion_ids) == len(stops):
        return "no supervised token but the stop token"
    if not stops:
        return "no stop token in the answer, so that the model would never learn to end"
    if stops != [len(row.completion_ids) - 1]:
        return "a stop token inside the answer; exactly one must end it"
    if bos_id is not None and list(row.prompt_ids[:2]) == [bos_id, bos_id]:
        return "two BOS tokens at the beginning"
    return ""
