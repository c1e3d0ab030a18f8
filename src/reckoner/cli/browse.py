"""Verbs that tell what there is: settings, ls, watch, track. None of them needs torch."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from reckoner.cli.options import AsJson

verbs = typer.Typer()

CURVES = ("loss", "reward", "dev_strict", "dev_loss", "kl_reference", "entropy", "length")
"""Logged values that `watch` draws, where a run has them."""


@verbs.command()
def settings(
    word: Annotated[
        str, Argument(metavar="[WORD]", help="part of a name, a word of the help, or a verb")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Explain the settings about a word, or all of them: default, what is allowed, and what it does."""
    from reckoner import console
    from reckoner.config.describe import settings_about

    found = settings_about(word)
    if as_json:
        console.print_json([asdict(one) for one in found])
        return
    rows = [[one.name, one.default, one.allowed or one.kind, one.doc] for one in found]
    headers = ["setting", "default", "allowed", "what it does"]
    console.table(headers, rows, first=("what it does", "default", "allowed"))


@verbs.command("ls")
def list_runs(
    folder: Annotated[Path, Argument(metavar="[FOLDER]", help="what holds the runs")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs and studies with their state, score and age."""
    from reckoner import console
    from reckoner.runs.listing import listing

    found = listing(folder)
    rows = [[one.name, one.kind, one.state, one.score, _age(one.age)] for one in found]
    console.show(
        [asdict(one) for one in found], as_json, [(["run", "kind", "state", "score", "last wrote"], rows)]
    )


def _age(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@verbs.command()
def watch(
    run: Annotated[Path, Argument(metavar="RUN", help="a run or a study, also of another process")],
    every: Annotated[float, Option(min=0.2, metavar="SECONDS", help="how often it is read again")] = 1.0,
) -> None:
    """Draw the curves of a run or of the arms of a study until it ends; piped, once."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from reckoner.runs.listing import begun_runs, state

    def drawn() -> Text:
        lines = [line for folder in begun_runs(run) for line in _curves(folder)]
        return Text("\n".join(lines), no_wrap=True, overflow="ellipsis")

    if not sys.stdout.isatty():
        print(drawn().plain)
        return
    with Live(drawn(), console=Console(highlight=False), refresh_per_second=4) as live:
        while state(run) == "running":
            time.sleep(every)
            live.update(drawn())


def _curves(folder: Path) -> list[str]:
    """The state of one run, and a line for each of its curves: name, first value, bars, last value."""
    from reckoner.console import clock, escape, sparkline
    from reckoner.runs.listing import group_and_name, metrics, score, state

    logged = metrics(folder)
    step, seconds = (max((line.get(name, 0) for line in logged), default=0) for name in ("step", "seconds"))
    head = "  ".join(filter(None, (f"step {step:,}", clock(seconds), score(folder))))
    lines = [f"{escape(group_and_name(folder)[1], newlines=False)}  {state(folder)}  {head}"]
    for name in CURVES:
        sizes = "dev_n" if name == "dev_strict" else ""
        values = [(100 / line[sizes] if sizes else 1) * line[name] for line in logged if name in line]
        if len(values) > 1:
            first, last = (f"{round(value, 6) + 0.0:.4g}" for value in (values[0], values[-1]))
            lines.append(f"  {name:<13}{first:>9} {sparkline(values)} {last}{' %' if sizes else ''}")
    return lines


@verbs.command()
def track(
    run: Annotated[Path, Argument(metavar="RUN", help="a run, finished or not, or a study")],
    to: Annotated[str, Option("--to", metavar="NAME", help="wandb, tensorboard, mlflow or trackio")],
    until_closed: Annotated[bool, Option("--until-closed", hidden=True)] = False,
) -> None:
    """Send the curves of a run to a tracker; what it has already is not sent again."""
    from reckoner.tracking import track as send

    sent = send(run, to, until_closed)
    print(f"{sent:,} lines of metrics.jsonl sent to {to}")
