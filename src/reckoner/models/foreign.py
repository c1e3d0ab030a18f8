"""The one boundary to the libraries that read a foreign model: their errors over its files are bad input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from safetensors import SafetensorError

from reckoner.errors import InputError, one_line, out_of_memory

NUMBERS_PER_BYTE, BUFFER_NUMBERS = 16, 100_000_000
"""Numbers that a model may hold for each byte of its weights, and besides. 4-bit weights hold 2 a byte, and
loading registers each several times.
"""

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
        if isinstance(error, _RAISED) or type(error) is Exception or type(error).__name__ == "PanicException":
            raise InputError(f"{self.what} ({one_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and messages of transformers, then restore its state. Python's warnings stay."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def limit_numbers(size: int) -> Iterator[None]:
    """Refuse a configuration of far more numbers than weights of `size` bytes hold, before they take memory.

    Raises `ValueError` inside the libraries.
    """
    from torch.nn.modules import module as hooks

    room, total = BUFFER_NUMBERS + NUMBERS_PER_BYTE * size, 0

    def count(module: Any, name: str, tensor: Any) -> None:
        nonlocal total
        total += 0 if tensor is None else tensor.numel()
        if total > room:
            raise ValueError("its configuration describes a far larger model than the weights")

    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
