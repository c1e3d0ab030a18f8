"""Verbs that judge what was generated: grade, compare, errors, report. None of them needs torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from reckoner.cli.options import AsJson

verbs = typer.Typer()


@verbs.command()
def grade(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSONL with a completion and its gold answer in each line; - is stdin")],
    output: Annotated[str, typer.Option(metavar="FILE", help="where to write the graded lines; - is stdout")] = "",
    grader: Annotated[str, typer.Option(metavar="NAME", help="compare with another tool's grader, or with all of them")] = "",
    gold: Annotated[Path | None, typer.Option(metavar="FILE", help="JSONL of id and gold, where the lines hold no gold answer")] = None,
    completion_field: Annotated[str, typer.Option(metavar="NAME", help="default: completion, or else text")] = "",
    gold_field: Annotated[str, typer.Option(metavar="NAME")] = "gold",
    id_field: Annotated[str, typer.Option(metavar="NAME", help="default: id, or else problem_id")] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out lines that cannot be graded, and count them")] = False,
    as_json: AsJson = False,
) -> None:
    """Grade any file of completions, and print the rates with their intervals."""
    from reckoner import console
    from reckoner.analysis.grade import Fields, disagreement_table, document, grade_file, rate_table
    from reckoner.analysis.runfiles import read_problems
    from reckoner.faults import InputError
    from reckoner.tasks.graders import GRADERS

    if as_json and output == "-":
        raise InputError("--json and --output - would both write to stdout. Name a file for one of them")
    golds = {name: problem.gold for name, problem in read_problems(gold).items()} if gold else None
    graders = tuple(GRADERS) if grader == "all" else (grader,) if grader else ()
    fields = Fields(completion_field, gold_field, id_field)
    tally = grade_file(file, output or None, fields=fields, golds=golds, graders=graders, skip_bad=skip_bad)
    if as_json:
        console.print_json(document(tally))
        return
    out = sys.stderr if output == "-" else sys.stdout
    console.table(*rate_table(tally), file=out)
    if graders:
        console.table(*disagreement_table(tally), file=out)
    if tally.skipped:
        print(f"{tally.skipped:,} lines left out", file=out)
