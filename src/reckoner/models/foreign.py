"""The one boundary to the libraries that read a foreign model: their errors over its files are bad input."""

from __future__ import annotations

from types import TracebackType

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError

from reckoner.errors import InputError, out_of_memory

_RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TemplateError,
    TypeError,
    ValueError,
)


class Foreign:
    """`with Foreign(what):` around calls of transformers, tokenizers, peft and safetensors, never our code.

    Their errors become an `InputError` of one line that begins with `what`. Tokenizers raises `Exception`
    itself, and its Rust code panics. Running out of memory is passed on: files that would cause it are
    refused before.
    """

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, InputError) or out_of_memory(error):
            return
        if isinstance(error, _RAISED) or kind is Exception or kind.__name__ == "PanicException":
            raise InputError(f"{self.what} ({line(error)})") from error


def line(error: BaseException) -> str:
    """The message of a library in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
