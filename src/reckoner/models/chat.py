"""A tokenizer's chat template is a program of its author: it runs in transformers' sandbox, and tricks to leave it are refused."""

from __future__ import annotations

import re

from jinja2 import Environment, TemplateError
from transformers import PreTrainedTokenizerBase

from reckoner.faults import InputError
from reckoner.models.foreign import line

Messages = list[dict[str, str]]

LONGEST = 100_000
"""Characters of a template; the longest in use have some 10,000."""

_FAILS = (
    TemplateError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
    MemoryError,
)
_INNER = re.compile(r"__[a-z_]+__")
_OTHER_FILES = {"include", "import", "extends", "from"}


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a template that reaches for Python's inner attributes or other files, before it is run. Raises `InputError`.

    The sandbox would stop them as well, or print nothing; a template that tries is no template to train with.
    """
    found = tokenizer.chat_template or ""
    for template in found.values() if isinstance(found, dict) else [found]:
        if len(template) > LONGEST:
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} has {len(template):,} characters, more than {LONGEST:,}. Set prompt.chat_template=off and delete it"
            )
        before = ""
        try:
            for _, kind, word in Environment().lex(template):
                escapes = (kind == "name" and _INNER.fullmatch(word)) or (
                    kind == "string" and _INNER.search(word)
                )
                if escapes or (before == "block_begin" and word in _OTHER_FILES):
                    raise InputError(
                        f"the chat template of {tokenizer.name_or_path} asks for {word[:40]}, which no template needs. Delete it, or take another model"
                    )
                before = kind if kind != "whitespace" else before
        except TemplateError as error:
            raise InputError(
                f"the chat template of {tokenizer.name_or_path} is no Jinja template ({line(error)})"
            ) from error


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, reply: bool) -> str:
    """The messages in the tokenizer's template, with the opening of the model's turn where `reply`. Raises `InputError` where it fails."""
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=reply)
    except _FAILS as error:
        raise InputError(
            f"the chat template of {tokenizer.name_or_path} refuses these messages: {line(error)}"
        ) from error


def turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The first special token after the model's text in the chat template; EOS where there is no template."""
    if not tokenizer.chat_template:
        return tokenizer.eos_token_id
    said = "\u2042"
    after = render(
        tokenizer, [{"role": "user", "content": "?"}, {"role": "assistant", "content": said}], reply=False
    ).rpartition(said)[2]
    special = set(tokenizer.all_special_ids)
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in special), tokenizer.eos_token_id)
