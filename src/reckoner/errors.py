"""The two ways a command may stop that are not bugs in this package.

Everything else is a programming error and must crash loudly with its traceback.
"""

from __future__ import annotations

import errno
import signal
from importlib.util import find_spec

SILENCE = 300.0
"""Seconds without a sign of life until a process of ours counts as hung; a busy machine delays signs."""


EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "peft"), "lab"),
    **dict.fromkeys(("datasets", "huggingface_hub", "numba"), "lab"),
    "pyarrow": "parquet",
    "backports": "inspect",
    "pandas": "pandas",
    "scipy": "barnard",
    "math_verify": "math",
    "optuna": "tune",
    "ray": "ray",
    "submitit": "slurm",
    "vllm": "vllm",
}
"""Packages that `pip install reckonlab` leaves out, and the extra that brings each."""


class InputError(ValueError):
    """Bad input. The message is one line that says what, where and what to do. Exit code 2."""


class Stopped(RuntimeError):
    """The work stopped before its end and can be resumed by the same command. Exit code 75."""


def one_line(error: BaseException) -> str:
    """The message of somebody else's code in one short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises for a Hub that refuses, cannot be reached, or may have no such name."""
    from huggingface_hub import errors

    client = errors.HTTPError  # type: ignore[attr-defined]  # of its HTTP client
    return errors.HfHubHTTPError, errors.HFValidationError, client, OSError


def missing(package: str, what: str) -> str:
    """The line for a `package` of an extra that `what` needs; empty where no extra has it."""
    name = package.partition(".")[0]
    return f"{what} needs {name}: pip install 'reckonlab[{EXTRAS[name]}]'" if name in EXTRAS else ""


def require(package: str, what: str) -> None:
    """Raise `InputError` where the `package` of an extra is not installed, without importing it."""
    if find_spec(package) is None:
        raise InputError(missing(package, what))


def lost(whose: str, code: int, remedy: str) -> Exception:
    """What to raise where a process of `whose` ended with `code` (negative: a signal).

    A killed process can be resumed; any other end is a bug of ours.
    """
    if code >= 0:
        return RuntimeError(f"a process of {whose} ended with code {code}; its error stands above")
    how = {
        -signal.SIGKILL: f"was killed (possibly out of memory). Try {remedy}; t",
        -signal.SIGTERM: "was asked to end. T",
    }.get(code, f"crashed ({signal.Signals(-code).name}). T")
    return Stopped(f"a process of {whose} {how}he same command goes on from there")


def silent(whose: str, process: int, seconds: float) -> Stopped:
    """What to raise where a process of `whose` is there and gives no sign of life."""
    return Stopped(
        f"process {process} of {whose} gave no sign of life for {seconds:g} s, as one that was stopped. "
        "It was ended; the same command goes on from there"
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, the system, or torch on a CPU or GPU had no memory.

    Torch need not be there: its errors are known by text.
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):  # torch.OutOfMemoryError is one
        signs = (
            "can't allocate memory",
            "out of memory",
            "ALLOC_FAILED",
            "bad_alloc",
            "can't start new thread",
        )
        return any(sign in str(error) for sign in signs)
    return isinstance(error, MemoryError)
