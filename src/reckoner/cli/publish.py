"""Verbs that show a study or a run to others: report, slides, card, push. None of them needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from reckoner.cli.options import AsJson, Decimal, Gold, Split

if TYPE_CHECKING:
    from reckoner.analysis.findings import Findings

verbs = typer.Typer()

Study = Annotated[Path, Argument(metavar="STUDY", help="folder that `reckon study` wrote")]
Run = Annotated[Path, Argument(metavar="RUN", help="a finished run folder")]
Licence = Annotated[
    str, Option("--licence", metavar="NAME", help="of the base model, where it does not tell its own")
]
Price = Annotated[float, Option(min=0, help="price of the machine for an hour, in any currency")]
Watts = Annotated[float, Option(min=0, help="power that the machine draws")]


@verbs.command()
def report(
    study: Annotated[
        list[Path],
        Argument(metavar="STUDY | RUN_OR_FILE...", help="folder of a study, or several runs or files"),
    ],
    output: Annotated[
        Path, Option(metavar="FILE", help="page of several runs or files; a study's lie in its folder")
    ] = Path("report.html"),
    intersect: Annotated[
        bool, Option("--intersect", help="compare only the items that all of several inputs have")
    ] = False,
    gold: Gold = None,
    decimal: Decimal = "auto",
    split: Split = "",
    as_json: AsJson = False,
) -> None:
    """Write the report of a study again, or one page on several runs or files of any tool.

    That of a study is report.html, report.md, table.csv and the figures.
    """
    if len(study) == 1:
        from reckoner.analysis.report import build_report

        show_study(build_report(study[0]), as_json)
        return
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis.explorer import write_page
    from reckoner.analysis.pairs import compare_both_ways, pair_sentence
    from reckoner.analysis.readers import read_completion_sets

    sources = read_completion_sets(study, gold, split, decimal)
    compared = compare_both_ways(sources, intersect=intersect)
    write_page(output, sources, compared)
    lines = [*map(pair_sentence, compared.pairs), *compared.notes, f"report: {output}"]
    console.show(asdict(compared), as_json, [], lines)


def show_study(result: Findings, as_json: bool) -> None:
    """Print what a study found: its first sentences, what it cannot say, the table and the report."""
    from reckoner import console
    from reckoner.analysis.limits import last_words
    from reckoner.analysis.report import document
    from reckoner.analysis.sentences import verdict
    from reckoner.analysis.study_tables import summary

    if as_json:
        console.print_json(document(result))
        return
    for line in (*verdict(result)[:2], *last_words(result)):
        console.prose(line)
    print()
    summary(result).print()
    console.prose(f"\nreport: {result.study.folder / 'report.html'}")


@verbs.command()
def slides(study: Study) -> None:
    """Write ten slides of a study, slides.html: arrow keys, notes with n, prints to a PDF of 16:9."""
    from reckoner import console
    from reckoner.analysis.slides import build_slides

    print(console.escape(str(build_slides(study)), newlines=False))


@verbs.command()
def card(run: Run, licence: Licence = "", price: Price = 0.0, watts: Watts = 0.0) -> None:
    """Print the card of a run: results with intervals, cost, weakest categories, whether more would help."""
    from reckoner import console
    from reckoner.analysis.card import Rates
    from reckoner.analysis.card import card as make_card
    from reckoner.runs.publish import base_of

    base = base_of(run)
    text = make_card(run, base.name, licence or base.licence, Rates(price, watts), base.note)
    print(console.escape(text), end="")


@verbs.command()
def push(
    run: Run,
    repo: Annotated[str, Argument(metavar="REPO", help="OWNER/NAME on the Hub; created private")],
    licence: Licence = "",
    price: Price = 0.0,
    watts: Watts = 0.0,
    yes: Annotated[bool, Option("--yes", help="send it; without this, only say what would be sent")] = False,
) -> None:
    """Send the model of a run with its card to the Hub; first shows files, sizes and licence."""
    from reckoner import console
    from reckoner.analysis.card import Rates
    from reckoner.analysis.card import card as make_card
    from reckoner.runs.publish import parcel
    from reckoner.runs.publish import push as send

    found = parcel(run, repo, licence)
    base = found.base
    text = make_card(run, base.name, base.licence, Rates(price, watts), base.note)
    sizes = {**found.files, "README.md": len(text.encode())}
    rows = [[name, f"{size:,}"] for name, size in sizes.items()]
    console.table(["file", "bytes"], rows)
    console.prose(f"{sum(sizes.values()):,} bytes to {repo}; licence of the base: {base.licence}")
    console.prose(send(found, text, repo) if yes else "Nothing was sent. Give --yes to send it.")
