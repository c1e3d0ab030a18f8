"""From prompts to token ids, by the tokenizer and its chat template.

A chat template is a program by its author. It runs in transformers' sandbox; attempts to leave it are
refused.
"""

from __future__ import annotations

import inspect
import re
from datetime import date
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError
from transformers import PreTrainedTokenizerBase

from reckoner.errors import InputError, one_line
from reckoner.machine import TOGETHER, OverLimit, bounded, say_once

Messages = list[dict[str, str]]

LONGEST_TEMPLATE = 100_000
"""Characters of a template; the longest in use have some 10,000."""

_FAILS: tuple[type[Exception], ...] = (TemplateError, ValueError, TypeError, ArithmeticError, LookupError)
_FAILS += (AttributeError, RecursionError, MemoryError)
_INNER = re.compile(r"__[a-z_]+__")
_OTHER_FILES = {"include", "import", "extends", "from"}

THINKING = ("enable_thinking", "thinking")
"""Names that templates give to the switch whose false value closes the thinking block."""

_OPEN_BLOCK = re.compile(
    r"(?P<left><[|｜]?|\[|◁)(?P<name>[\w:.-]+)(?: [^<>\[\]◁▷\n]*)?(?P<right>[|｜]?>|\]|▷)(?P<word>\w*)\s*\Z"
)
"""A mark at the end of a prompt: `<think>`, `[THINK]`, `<|begin_of_thought|>` or `<|channel>thought`."""
_THOUGHT = re.compile(r"(?i)think|thought|reason")
_CLOSES = re.compile(r"(?i)\A(?:end|close|stop|no)|(?:end|close|stop|off)\Z")
_BLOCK = re.compile(r"<(\|?)(\w+)>[^<]*(</\2>|<\2\1>)?\s*")
"""A thinking block at the end of a prompt: `<think>`, `<think></think>` or `<|channel>thought<channel|>`."""

DATE = date(2024, 7, 26)
"""The date in every prompt whose template asks for today's: a prompt is then the same on every day."""

_FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(
        f".replace('%{code}', '{DATE.strftime('%' + code)}')"
        for code in [*"aAbBdeFhHIjkmMpSTyY", "-d", "-H", "-I", "-j", "-m"]
    )
    + " }}{% endmacro %}\n"
)
"""Put before a template, this replaces the function of the same name in transformers."""

_PROBE = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "\u2042"}]


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `InputError` for a template that uses Python's inner attributes or other files, before it is run.

    The sandbox would stop it as well, or print nothing, but such a template is not one to train with.
    """
    templates, name = tokenizer.chat_template or "", f"the chat template of {tokenizer.name_or_path}"
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if len(template) > LONGEST_TEMPLATE:
            what = f"has {len(template):,} characters, more than {LONGEST_TEMPLATE:,}"
            raise InputError(f"{name} {what}. Set prompt.chat_template=off and delete it")
        before = ""
        try:
            for _, kind, word in Environment().lex(template):
                inner = {"name": _INNER.fullmatch, "string": _INNER.search}.get(kind)
                if (inner and inner(word)) or (before == "block_begin" and word in _OTHER_FILES):
                    advice = "Delete it, or take another model"
                    raise InputError(f"{name} asks for {word[:40]}, which no template needs. {advice}")
                before = kind if kind != "whitespace" else before
        except TemplateError as error:
            what = f"{name} is no Jinja template ({one_line(error)})"
            raise InputError(f"{what}. Correct it, or delete it") from error


def thinking_switches(template: str) -> list[str]:
    """The switches of thinking that a template reads; the same words in its texts are none."""
    names = {word for _, kind, word in Environment().lex(template) if kind == "name"}
    return [key for key in THINKING if key in names]


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, reply: bool = False, **switches: Any
) -> str:
    """The messages in the tokenizer's template, with the beginning of the model's turn if `reply`.

    `switches` are the template's own, such as `enable_thinking`. Raises `InputError` where the template
    fails.
    """
    name = tokenizer.name_or_path
    reserved = switches.keys() & inspect.signature(tokenizer.apply_chat_template).parameters.keys()
    if reserved:
        raise InputError(
            f"prompt.chat_template_kwargs.{min(reserved)} is not a switch of a template. Leave it out"
        )
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = _FIXED_DATE + template
            say_once(f"the chat template of {name} writes a date: every prompt has {DATE:%d %b %Y}")
        with bounded(together=TOGETHER):
            return tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=reply, **switches
            )
    except OverLimit as error:
        what = f"the chat template of {name} does not end: {error}"
        raise InputError(f"{what}. Set prompt.chat_template=off, or take another model") from error
    except _FAILS as error:
        roles = [message["role"] for message in messages]
        remedy = "prompt.shots=0 or prompt.chat_template=off" if roles.count("user") > 1 else ""
        remedy = "prompt.instruction and no prompt.system" if "system" in roles else remedy
        said = f"{one_line(error)} (roles {', '.join(roles)})"
        what = f"the chat template of {name} refuses these messages: {said}"
        raise InputError(f"{what}. Set {remedy or 'prompt.chat_template=off'}") from error


class Encoder:
    """Token ids as transformers tokenises, except that no text of a user becomes a control token.

    Control tokens are the tokenizer's special tokens and, in questions, the added tokens with which the chat
    template marks its turns. Where a text holds the letters of one, the ids spell these letters.
    """

    tokenizer: PreTrainedTokenizerBase

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def encode_prompt(self, prompt: str | Messages, **switches: Any) -> list[int]:
        """Ids of a text with the tokenizer's own special tokens, or of messages up to the model's turn."""
        if isinstance(prompt, str):
            return self._spell(prompt, "", self.special, add_special_tokens=True)
        return self._spell(*self._render(prompt, reply=True, **switches), self._controls)

    def encode_example(
        self, prompt: str | Messages, answer: str, **switches: Any
    ) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of the answer after it, which ends with exactly one end token.

        The answer's ids follow those of the prompt in the ids of the whole: of the joined text, or of the
        prompt with what the template writes of an answered turn. If the prompt leaves a thinking block
        open, the answer closes it first. Raises `InputError` where the whole does not begin with the prompt,
        or nothing says what closes the block.
        """
        if pair := self.align(prompt, answer, **switches):
            return pair
        if isinstance(prompt, str):
            raise InputError(
                f"the end of the prompt {prompt[-12:]!r} merges with the answer {answer[:12]!r} into other "
                "tokens, so that the model would be asked something it was not trained on: "
                "end prompt.template with a sign that stands alone, as ':' does"
            )
        name, asked = self.tokenizer.name_or_path, render(self.tokenizer, prompt, reply=True, **switches)
        if (opened := _opened_block(asked)) and self._block_end(asked, answer) is None:
            raise InputError(
                f"the chat template of {name} opens the model's turn with {opened[0]!r}, and nothing says "
                "what closes that block, so that answers would be taught as thoughts. Set "
                f"{self._switch or 'the switch of the template for that in prompt.chat_template_kwargs'}, "
                "or prompt.chat_template=off"
            )
        raise InputError(
            f"the chat template of {name} opens the model's turn with {asked[-20:]!r}, and the tokens of an "
            "answered turn do not follow it. Set prompt.chat_template=off"
        )

    def align(
        self, prompt: str | Messages, answer: str, **switches: Any
    ) -> tuple[list[int], list[int]] | None:
        """The ids of `encode_example`, or None where that refuses them."""
        if isinstance(prompt, str):
            end = self.tokenizer.eos_token_id
            ids, whole = self.encode_prompt(prompt), self.encode_prompt(prompt + answer)
        else:
            end, asked = self.turn_end, self._render(prompt, reply=True, **switches)
            answered = self._render([*prompt, {"role": "assistant", "content": answer}], **switches)
            start = self._turn_start(prompt, asked[0], answered[0], **switches)
            if start is None:
                return None
            turn = answered[0][start:]
            if (close := self._block_end(asked[0], turn)) is None:
                return None
            start += len(turn) - len(turn.lstrip()) if close else 0
            close = f"{close}\n\n" if close and close not in turn else ""
            text, hidden = (a + close + b[start:] for a, b in zip(asked, answered, strict=True))
            ids, whole = self._spell(*asked, self._controls), self._spell(text, hidden, self._controls)
        tail = [*whole[len(ids) :], end]
        return (ids, tail[: tail.index(end) + 1]) if whole[: len(ids)] == ids else None

    def check_shown(self, messages: Messages, **switches: Any) -> None:
        """Raises `InputError` where the chat template leaves out a text, or marks no end of an answer."""
        text = render(self.tokenizer, messages, reply=True, **switches)
        if left := next((m for m in messages if m["content"].strip() not in text), None):
            raise InputError(
                f"the chat template of {self.tokenizer.name_or_path} does not show the {left['role']}'s text "
                f"{left['content'][:40]!r}. Set prompt.chat_template=off, or correct the template"
            )
        if not self._end_mark:
            render(self.tokenizer, _PROBE)  # says so where it is that which fails
            raise InputError(
                f"the chat template of {self.tokenizer.name_or_path} writes neither EOS nor another special "
                "token behind an answer, so that nothing in a conversation ends one. "
                "Set prompt.chat_template=off, or add {{ eos_token }} there"
            )

    @cached_property
    def turn_end(self) -> int:
        """The first special token after the model's text in the chat template; EOS if there is none."""
        end = self._end_mark
        return self.tokenizer.convert_tokens_to_ids(end[0]) if end else self.tokenizer.eos_token_id

    @property
    def shows_turns(self) -> bool:
        """Whether there is a chat template and it shows a question with its answer."""
        return bool(self._frame)

    @property
    def _end_mark(self) -> re.Match[str] | None:
        return self.special.search(self._frame.rpartition(_PROBE[1]["content"])[2])

    @cached_property
    def special(self) -> re.Pattern[str]:
        """Matches the letters of a special token, named in the tokenizer's configuration or not."""
        added = self.tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special}
        return _any_of({*self.tokenizer.all_special_tokens, *special})

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        """Matches those, and the letters of other added tokens with which the template marks its turns."""
        added = (token for token in self.tokenizer.get_added_vocab() if token.strip())
        marks = {token for token in added if token in self._frame or self.special.fullmatch(token)}
        return _any_of({*marks, *self.tokenizer.all_special_tokens})

    @cached_property
    def _frame(self) -> str:
        """A short conversation in the chat template; empty without one, and where it fails.

        A prompt that does not take the template works all the same; `check_shown` says why no chat does.
        """
        try:
            return render(self.tokenizer, _PROBE) if self.tokenizer.chat_template else ""
        except InputError:
            return ""

    def _turn_start(self, prompt: Messages, asked: str, answered: str, **switches: Any) -> int | None:
        """Where in `answered` the text begins that follows `asked`; None where there is no such place.

        Before an answered turn a template may leave out what it writes before one to be written: a thinking
        block (Gemma 4, DeepSeek-R1) or the system message (Mistral).
        """
        if answered.startswith(asked):
            return len(asked)
        start = render(self.tokenizer, [*prompt, _PROBE[1]], **switches).rpartition(_PROBE[1]["content"])[0]
        question = prompt[-1]["content"].strip()
        opened, begun = (text.rpartition(question)[2] for text in (asked, start))
        if not answered.startswith(start):
            return None
        if begun.startswith(opened):
            return len(start) - len(begun) + len(opened)
        if not opened.startswith(begun):
            return None
        left_out = _opened_block(opened[len(begun) :])
        only_block = _BLOCK.fullmatch(opened, len(begun)) or (left_out and left_out.start() == 0)
        return len(start) if only_block else None

    def _block_end(self, asked: str, turn: str) -> str | None:
        """What closes a thinking block that the prompt leaves open, such as `</think>`; empty without one.

        None where it stands neither in the template, nor in the vocabulary, nor in the `turn` that follows.
        """
        opened = _opened_block(asked)
        if opened is None:
            return ""
        name, template = self.tokenizer.name_or_path, self.tokenizer.get_chat_template()
        known = (template, turn, self.tokenizer.get_added_vocab())
        end = next((end for end in _endings(opened) if any(end in place for place in known)), None)
        if not _is_thought(opened) and (end is None or end in turn):
            return ""  # the mark of a turn, such as `<assistant>`
        if end:
            remedy = f" ({self._switch} closes it in the prompt)" if self._switch else ""
            what = f"opens the model's turn with {opened[0]!r} and does not close it"
            say_once(f"the chat template of {name} {what}: reference solutions begin with {end}{remedy}")
        return end

    @property
    def _switch(self) -> str:
        """The setting by which the template closes its thinking block; empty where it has no known switch."""
        switches = thinking_switches(self.tokenizer.get_chat_template())
        return next((f"prompt.chat_template_kwargs.{key}=false" for key in switches), "")

    def _render(self, messages: Messages, **options: Any) -> tuple[str, str]:
        """The messages in the template, and the same text with the messages' own control tokens hidden."""
        text = hidden = render(self.tokenizer, messages, **options)
        veiled = [
            {**m, "content": pattern.sub(lambda match: "x" * len(match[0]), m["content"])}
            for m in messages
            for pattern in [self.special if m["role"] == "assistant" else self._controls]
        ]
        if veiled != messages:
            hidden = render(self.tokenizer, veiled, **options)
        if len(hidden) != len(text):
            raise InputError(
                f"the chat template of {self.tokenizer.name_or_path} rewrites a text that holds the letters "
                "of a control token, so that it cannot be kept as text. "
                f"Take them out of {messages[-1]['content'][:60]!r}"
            )
        return text, hidden

    def _spell(
        self, text: str, hidden: str, controls: re.Pattern[str], *, add_special_tokens: bool = False
    ) -> list[int]:
        """Ids of `text`; a control token that `hidden` lacks there is cut after its first letter."""
        ids: list[int] = []
        start = 0
        for match in controls.finditer(text):
            if hidden[match.start() : match.end()] != match[0]:
                before = text[start : match.start() + 1]
                ids += self.tokenizer(before, add_special_tokens=add_special_tokens)["input_ids"]
                ids += self._spell(match[0][1:], "", controls)
                start, add_special_tokens = match.end(), False
        return ids + self.tokenizer(text[start:], add_special_tokens=add_special_tokens)["input_ids"]


def _opened_block(text: str) -> re.Match[str] | None:
    """The mark at the end of a text, if it does not say itself that it closes something."""
    mark = _OPEN_BLOCK.search(text)
    return None if mark is None or _CLOSES.search(mark["name"]) else mark


def _is_thought(mark: re.Match[str]) -> bool:
    return _THOUGHT.search(f"{mark['name']} {mark['word']}") is not None


def _endings(mark: re.Match[str]) -> list[str]:
    """What may close the block that `mark` opens, in the ways that templates write."""
    left, name, right = mark["left"], mark["name"], mark["right"]
    ends = [f"{left}/{name}{right}"]
    if _is_thought(mark):
        ended = re.sub("(?i)begin|start", lambda begin: "END" if begin[0].isupper() else "end", name)
        ends += [f"{left}{ended}{right}"] if ended != name else [f"{left}end_{name}{right}"]
    return [*ends, f"<{name}|>"] if (left, right) == ("<|", ">") else ends


def _any_of(words: set[str]) -> re.Pattern[str]:
    """Matches any of the words, a longer one first."""
    return re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))) or "(?!)")
