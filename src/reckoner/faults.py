"""The two ways a command may stop that are not bugs in this package.

Everything else is a programming error and must crash loudly with its traceback.
"""

from __future__ import annotations


class InputError(ValueError):
    """Bad input. The message is one line that says what, where and what to do. Exit code 2."""


class Stopped(RuntimeError):
    """The work stopped before its end and can be resumed by the same command. Exit code 75."""
