"""The page of `reckon errors --html`: every problem with the answers of one or two runs, to search, filter and read.

It is the report's explorer on its own, with the same promises: one file, no request, model text only as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reckoner import __version__
from reckoner.analysis import explorer, wording
from reckoner.analysis.canvas import marks
from reckoner.analysis.changes import Diff, diff
from reckoner.analysis.mistakes import profile
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.report import arm_colours, asset, content_hash, environment
from reckoner.runs.safe_paths import check_output, replacing


def write_page(path: Path, sources: Sequence[CompletionSet]) -> None:
    """Write the page of one or two runs; raises `InputError` as `profile` and `diff` do, `Stopped` where it cannot be written."""
    check_output(path)
    text = render(sources)
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def render(sources: Sequence[CompletionSet]) -> str:
    """The page as text."""
    profiles = [profile(source) for source in sources]
    found = diff(*sources) if len(sources) == 2 else None
    style, script = asset("report.css") + arm_colours(marks([True] * len(sources))), asset("report.js")
    return (
        environment(autoescape=True)
        .get_template("errors.html.j2")
        .render(
            version=__version__,
            title=" and ".join(source.name for source in sources),
            sentences=[wording.diff_sentence(found)] if found else [wording.profile_sentence(profiles[0])],
            kinds=[(found.name, wording.kind_table(found)) for found in profiles],
            style=style,
            style_hash=content_hash(style),
            script=script,
            script_hash=content_hash(script),
            data=explorer.embed(contents(sources, found)),
        )
    )


def contents(sources: Sequence[CompletionSet], found: Diff | None) -> dict[str, Any]:
    """The explorer's data; of two runs the right answer says where the other one parts from it."""
    data = explorer.contents([source.name for source in sources], range(len(sources)), sources)
    if found is None:
        return data
    data["kinds"].append("first difference")
    changes = {
        change.problem_id: (change, side)
        for side, part in ((1, found.fixed), (0, found.broken))
        for change in part
    }
    for problem in data["problems"]:
        if problem[0] in changes:
            change, side = changes[problem[0]]
            problem[-1][side][-2:] = [len(data["kinds"]) - 1, wording.parting(found, change)[:400]]
    return data
