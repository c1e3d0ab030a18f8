"""The command line: verbs parse, call one function and print.

Every way a command can end is decided in `main`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from types import FrameType
from typing import Annotated

import typer
from typer import Option
from typer.main import get_command_name

from reckoner import __version__
from reckoner.cli import analyze, browse, infer, inspect, publish, question, train
from reckoner.cli.options import flag_hint
from reckoner.console import escape, prose, table
from reckoner.errors import InputError, Stopped, missing, out_of_memory
from reckoner.machine import check_address_space
from reckoner.ranks import loss, one_voice, rank

OURS = InputError, Stopped
PASSED_ON = typer.TyperException, KeyboardInterrupt, ModuleNotFoundError
BAD_INPUT, RESUMABLE, READER_GONE = 2, 75, 128 + signal.SIGPIPE
INTERRUPTED = "interrupted. The same command goes on from what was saved, if anything was"
OUT_OF_MEMORY = (
    "out of memory. Lower train.per_device_train_batch_size (and raise train.gradient_accumulation_steps), "
    "rollout.num_generations or eval.batch_size, set model.gradient_checkpointing=true, or take a smaller "
    "model; "
    "finished work is kept"
)
LONGEST = 1000
"""Characters of a message, which may repeat what it was given."""

app = typer.Typer(
    help="Fine-tune small language models on math word problems, and know which method really won.",
    epilog="Settings follow the verb as section.key=value. "
    "Exit codes: 0 done, 2 bad input, 75 stopped but resumable, 1 bug.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
GROUPS = {
    "Train": train.verbs,
    "Use a model": infer.verbs,
    "Compare and explain": analyze.verbs,
    "Show to others": publish.verbs,
    "Question a result": question.verbs,
    "Look and check": inspect.verbs,
    "Find your way": browse.verbs,
}
for verbs in GROUPS.values():
    app.add_typer(verbs)
COMPLETION = "_RECKON_COMPLETE"
"""Set by the shell that asks for completions."""


@app.callback(invoke_without_command=True)
def _reckon(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[
        bool, Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    if version or context.invoked_subcommand is None:
        print(f"reckoner {__version__}") if version else _overview()
        raise typer.Exit


def _overview() -> None:
    """What one can do, in groups, and how to begin."""
    print("reckon VERB [--preset NAME] [--config FILE] [section.key=value ...]")
    for title, group in GROUPS.items():
        commands = typer.main.get_group(group).commands.items()
        rows = [[name, one.get_short_help_str(200)] for name, one in commands if not one.hidden]
        print()
        table([title, ""], rows)
    print()
    prose(
        "Begin with: reckon study --preset demo (two minutes). reckon VERB --help explains a verb, "
        "reckon settings WORD a setting; reckon --install-completion teaches your shell."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own) and return its exit code; a bug is raised.

    Code 2 and 75 come with a line on stderr for each fault: what, where, what to do.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    words = [word for word in given if word != "--debug"]
    if COMPLETION in os.environ:
        typer.main.get_command(app)(prog_name="reckon")
    if "--help-settings" in words:
        words = ["settings", *(word for word in words if word == "--json" or word in words[:1])]
    _open_streams()
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # no network is one line of ours, not six of retries
    try:
        check_address_space()
        command = typer.main.get_command(_holding(words))
        with one_voice(), _stoppable(), command.make_context("reckon", list(words)) as context:
            context.command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as end:
        return end.exit_code
    except (*OURS, *PASSED_ON, OSError, RuntimeError, MemoryError) as error:
        code, message = _ending(error, words)
        if not code:
            raise
        if len(words) < len(given):
            import traceback

            traceback.print_exception(error)
        for line in filter(None, message.split("\n")):
            short = line if len(line) <= LONGEST else f"{line[:LONGEST]} ..."
            who = f"rank {rank()}: " if rank() else ""
            print(f"reckon: {who}{escape(short, newlines=False)}", file=sys.stderr)
        return code
    return 0


def _holding(words: Sequence[str]) -> typer.Typer:
    """The app with the verb that the words begin with alone, or with all where they begin with none.

    Typer evaluates the signature of every verb that an app holds: a third of a start.
    """
    name, one = next((word for word in words if not word.startswith("-")), ""), copy(app)
    one.registered_groups = [
        group for verbs in GROUPS.values() for group in verbs.registered_groups if group.name == name
    ]
    one.registered_commands = [
        command
        for verbs in GROUPS.values()
        for command in verbs.registered_commands
        if command.callback and (command.name or get_command_name(command.callback.__name__)) == name
    ]
    return one if one.registered_groups or one.registered_commands else app


def _open_streams() -> None:
    """Open the standard streams that the caller closed, and make all of them UTF-8.

    A file of ours would otherwise get their numbers.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_RDWR), "w" if number else "r", encoding="utf-8"))
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace" if number else "strict")


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does; a second signal ends it at once: files are always whole."""

    def at_once(number: int, frame: FrameType | None) -> None:
        os._exit(RESUMABLE)

    def stop(number: int, frame: FrameType | None) -> None:
        for watched in before:
            signal.signal(watched, at_once)
        while frame is not None and "importlib" not in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is None:
            raise KeyboardInterrupt
        # An import may take the exception for a missing module.
        os.write(2, f"reckon: {INTERRUPTED}\n".encode())
        os._exit(RESUMABLE)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == stop:
                signal.signal(number, handler)


def _ending(error: BaseException, words: Sequence[str]) -> tuple[int, str]:
    """Exit code and message of a command that failed; code 0 where the error is a bug of ours."""
    if isinstance(error, OURS):
        return BAD_INPUT if isinstance(error, InputError) else RESUMABLE, str(error)
    if isinstance(error, KeyboardInterrupt):
        return RESUMABLE, INTERRUPTED
    if isinstance(error, typer.TyperException):
        return BAD_INPUT, _usage(error, words)
    if isinstance(error, ModuleNotFoundError) and (line := missing(error.name or "", words[0])):
        return BAD_INPUT, line
    if isinstance(error, BrokenPipeError):
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return READER_GONE, ""
    if out_of_memory(error):
        return RESUMABLE, OUT_OF_MEMORY
    if line := loss(error):
        return RESUMABLE, line
    number, path = getattr(error, "errno", None), getattr(error, "filename", None)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return RESUMABLE, f"{path or 'output'}: no space left. Free some and give the same command again"
    if number in (errno.EACCES, errno.EPERM, errno.EROFS) and path:
        return BAD_INPUT, f"{path}: {os.strerror(number)}. Choose another folder with run.output_dir=FOLDER"
    if number in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EIO):
        why = os.strerror(number)
        return BAD_INPUT, f"{str(path or 'input')[:100]}: {why}. Name a file or folder that can be read"
    return 0, ""


def _usage(error: typer.TyperException, words: Sequence[str]) -> str:
    """What is wrong with the words of a command line, and where its help stands."""
    message = error.format_message()
    flag = getattr(error, "option_name", "")
    if flag and message.startswith("No such option") and (hint := flag_hint(flag, words)):
        return hint
    context = getattr(error, "ctx", None)
    end = "" if message.endswith("?") else "."
    return f"{message.rstrip('.')}{end} See: {context.command_path if context else 'reckon'} --help"
