"""Verbs that analyze what was generated or published. None of them needs torch."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from reckoner.cli.options import AsJson, Decimal, Gold, Split
from reckoner.errors import InputError

if TYPE_CHECKING:
    from reckoner.analysis.changes import Diff
    from reckoner.analysis.compare import Comparison, CountComparison
    from reckoner.analysis.mistakes import Profile
    from reckoner.analysis.readers import CompletionSet

verbs = typer.Typer()


@verbs.command()
def grade(
    file: Annotated[
        str,
        Argument(metavar="FILE", help="JSONL with a completion and its gold in each line; - is stdin"),
    ],
    output: Annotated[str, Option(metavar="FILE", help="where graded lines go; - is stdout")] = "",
    grader: Annotated[
        str, Option(metavar="NAME", help="compare with another tool's grader, or with all")
    ] = "",
    gold: Gold = None,
    completion_field: Annotated[
        str,
        Option(
            metavar="NAME",
            help="default: completion, or else text, or as vLLM and OpenAI write it; "
            "a dot leads inside: outputs.0.text",
        ),
    ] = "",
    gold_field: Annotated[str, Option(metavar="NAME")] = "",
    id_field: Annotated[
        str, Option(metavar="NAME", help="default: the first of problem_id, custom_id, id")
    ] = "",
    kind: Annotated[
        str, Option(metavar="KIND", help="of lines that do not say it: number, choice, span, expression")
    ] = "number",
    answer_format: Annotated[
        str, Option(metavar="FORMAT", help="how answers are marked: ####, boxed, answer-is, last")
    ] = "####",
    decimal: Decimal = "auto",
    skip_bad: Annotated[
        bool, Option("--skip-bad", help="leave out and count lines that cannot be graded")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Grade any file of completions, and print the rates with their intervals."""
    from reckoner import console
    from reckoner.analysis.grade import disagreement_table, document, grade_file, rate_table
    from reckoner.analysis.lines import Fields
    from reckoner.analysis.readers import read_problems
    from reckoner.tasks.answers.grading import version_of
    from reckoner.tasks.answers.marking import check_format
    from reckoner.tasks.answers.other_graders import GRADERS

    check_format(answer_format)
    if as_json and output == "-":
        raise InputError("--json and --output - would both write to stdout. Name a file for one of them")
    problems = read_problems(gold, decimal) if gold else None
    graders = tuple(GRADERS) if grader == "all" else (grader,) if grader else ()
    version_of(kind)
    fields = Fields(completion_field, gold_field, id_field, kind, answer_format, decimal)
    with console.progress(after=console.SOON) as shown:
        on_progress = shown.callback(Path(file).name)
        tally = grade_file(file, output or None, fields, problems, graders, skip_bad, on_progress)
    tables = [rate_table(tally), *([disagreement_table(tally)] if graders else [])]
    left_out = [f"{tally.skipped:,} lines left out"] if tally.skipped else []
    console.show(document(tally), as_json, tables, left_out, sys.stderr if output == "-" else sys.stdout)


@verbs.command()
def compare(
    inputs: Annotated[
        list[str],
        Argument(
            metavar="RUN_OR_FILE...",
            help="run folders, JSONL of completions or of grades; with --counts 31/100 or 28.1%/256",
        ),
    ],
    baseline: Annotated[
        str, Option(metavar="NAME", help="compare each input with this one; default: all pairs")
    ] = "",
    pair: Annotated[list[str] | None, Option(metavar="A:B", help="a declared comparison; repeatable")] = None,
    intersect: Annotated[
        bool, Option("--intersect", help="compare only the items that all inputs have")
    ] = False,
    split: Split = "",
    gold: Gold = None,
    decimal: Decimal = "auto",
    counts: Annotated[bool, Option("--counts", help="the inputs are bare counts: unpaired tests")] = False,
    barnard: Annotated[
        bool, Option("--barnard", help="with --counts: Barnard's test beside Fisher's")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which run is better, by how much, and whether this many problems can tell."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis import tables
    from reckoner.analysis.pairs import pair_sentence

    result: Comparison | CountComparison
    if counts:
        from reckoner.analysis.compare import compare_counts

        result = compare_counts(inputs, barnard)
        shown = [table for table in tables.count_tables(result) if table.rows]
    else:
        sources = _sources(inputs, gold, split, decimal)
        result = _compare_sources(sources, baseline, pair or [], intersect)
        shown = tables.comparison_tables(result)
    lines = [*map(pair_sentence, result.pairs), *result.notes]
    console.show(asdict(result), as_json, shown, lines)


@verbs.command()
def claims(
    file: Annotated[
        Path | None,
        Argument(
            metavar="[FILE]",
            help="JSONL of title, n, k or percent, and group and source; default: published rows",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge published accuracies: interval, whether the percentage is possible, and what can be ranked."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis.claims import PUBLISHED, judge, pair_table, row_table, summary

    groups = judge(file or PUBLISHED)
    tables = [table for table in (row_table(groups), pair_table(groups)) if table.rows]
    console.show([asdict(group) for group in groups], as_json, tables, summary(groups))


@verbs.command()
def power(
    problems: Annotated[list[int] | None, Argument(metavar="[N...]", help="test problems", min=2)] = None,
    difference: Annotated[
        float, Option(min=0, max=100, help="points: also say how many problems show them (0: do not)")
    ] = 0.0,
    accuracy: Annotated[float, Option(min=0, max=1, help="of the worse one")] = 0.3,
    discordance: Annotated[
        float, Option(min=0.001, max=1, help="share of the problems on which two runs disagree")
    ] = 0.2,
    comparisons: Annotated[int, Option(min=1, max=1000, help="declared, for Holm's correction")] = 1,
    seeds: Annotated[int, Option(min=1, max=1000, help="runs of each method")] = 1,
    seed_std: Annotated[
        float, Option(min=0, max=1, help="standard deviation of an accuracy between seeds")
    ] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Say which differences a number of problems can show, before anything is run."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis import foresight
    from reckoner.analysis import power as solved

    lines = []
    if share := difference / 100:
        if share > discordance:
            raise InputError(
                f"--difference {difference:g}: two runs that differ by so much disagree on more "
                f"than {discordance:.0%} of the problems. Raise --discordance"
            )
        if accuracy + share > 1:
            raise InputError(f"--difference {difference:g} above --accuracy {accuracy:g} is more than 100 %")
        level = 0.05 / comparisons
        same = solved.resolving_n(share, discordance, level)
        separate = solved.resolving_n_unpaired(accuracy + share, accuracy, level)
        lines.append(
            f"{difference:g} points show on {same:,} problems that both are asked, or on {separate:,} "
            "each of separate samples."
        )
    assumed = (accuracy, discordance, comparisons, seeds, seed_std)
    found = [foresight.sight(n, *assumed) for n in problems or (100, 500, 1319)]
    names = ["problems", "same problems", "separate samples", f"methods over {seeds} seeds"]
    rows = [[f"{one.n:,}", *map(_points, (one.same, one.separate, one.methods))] for one in found]
    shown = slice(None if found[0].methods or seeds > 1 else -1)
    lines.append("Smallest true difference that is found with 80 % power at the 5 % level.")
    table = (names[shown], [row[shown] for row in rows])
    console.show([asdict(one) for one in found], as_json, [table], lines)


def _points(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} points"


def _sources(inputs: list[str], gold: Path | None, split: str, decimal: str) -> list[CompletionSet]:
    from reckoner.analysis.compare import is_claim
    from reckoner.analysis.readers import read_completion_sets

    bare = [name for name in inputs if is_claim(name) and not Path(name).exists()]
    sources = read_completion_sets([Path(name) for name in inputs if name not in bare], gold, split, decimal)
    if bare:
        counted = [f"{s.name}={sum(g.strict for g in s.grades.values())}/{len(s.grades)}" for s in sources]
        raise InputError(
            f"{bare[0]} is no run or file but looks like a count, which no test can pair: "
            f"say reckon compare --counts {shlex.join(_own_names(bare + counted))}"
        )
    return sources


def _compare_sources(
    sources: list[CompletionSet], baseline: str, pairs: list[str], intersect: bool
) -> Comparison:
    from reckoner.analysis.compare import parse_pair
    from reckoner.analysis.pairs import compare_both_ways

    declared = [parse_pair(text, sources) for text in pairs]
    return compare_both_ways(sources, declared, baseline, intersect)


def _own_names(counts: list[str]) -> list[str]:
    """The counts, each with a name of its own; raises `InputError` for one that cannot be."""
    from reckoner.analysis.compare import parse_claim

    names = [parse_claim(text).name for text in counts]
    return [
        f"count-{number}={text.rpartition('=')[2]}" if names.count(name) > 1 else text
        for number, (name, text) in enumerate(zip(names, counts, strict=True), 1)
    ]


@verbs.command("errors", hidden=True, help="The former name of mistakes.")
@verbs.command()
def mistakes(
    run: Annotated[Path, Argument(metavar="RUN", help="run folder or JSONL of completions")],
    other: Annotated[
        Path | None,
        Argument(metavar="[RUN_B]", help="what this run fixed and broke against the first"),
    ] = None,
    gold: Gold = None,
    decimal: Decimal = "auto",
    split: Split = "",
    limit: Annotated[
        int, Option(min=0, metavar="N", help="problems to print of each sort, of two runs; 0: all")
    ] = 5,
    html: Annotated[
        Path | None,
        Option(metavar="FILE", help="write a page to search and filter instead"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Sort every wrong answer by kind, or show what one run fixed and broke against another."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis.readers import read_completion_sets

    sources = read_completion_sets([run, other] if other else [run], gold, split, decimal)
    if html:
        from reckoner.analysis.explorer import write_page

        write_page(html, sources)
        print(console.escape(str(html)))
        return
    if other:
        from reckoner.analysis.changes import diff, page_data

        result = diff(*sources)
        console.print_json(page_data(result)) if as_json else _print_diff(result, limit)
        return
    from reckoner.analysis.mistakes import profile

    profiled = profile(sources[0])
    if as_json:
        console.print_json(asdict(profiled))
        return
    _print_profile(profiled)


def _print_profile(profiled: Profile) -> None:
    from reckoner import console
    from reckoner.analysis import tables
    from reckoner.analysis.sentences import profile_sentence

    console.prose(profile_sentence(profiled) + "\n")
    tables.kind_table(profiled).print()
    for grouping in profiled.groups:
        print()
        tables.group_table(profiled, grouping).print()
    for kind in profiled.kinds:
        for example in kind.examples:
            name = console.escape(f"{example.problem_id} \u00b7 {example.detail}", newlines=False)
            print(f"\n{kind.title} \u00b7 {name}")
            print(
                console.escape(f"{example.question}\n  gold {example.gold}; the model wrote:\n{example.text}")
            )


def _print_diff(result: Diff, limit: int) -> None:
    from reckoner import console
    from reckoner.analysis.sentences import diff_sentence, parting_sentence
    from reckoner.analysis.tables import side_table

    console.prose(diff_sentence(result))
    for sort, changes in (("fixed", result.fixed), ("broken", result.broken)):
        for change in changes[: limit or None]:
            head = f"\n{sort} \u00b7 {change.problem_id} \u00b7 gold {change.gold}"
            lines = filter(None, (head, change.question, parting_sentence(result, change)))
            print(console.escape("\n".join(lines)))
            side_table(result, change).print()
        if limit and len(changes) > limit:
            more = len(changes) - limit
            print(f"\n{more:,} more {sort}: --limit 0 prints all, --json gives them to a program")
