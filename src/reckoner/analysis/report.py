"""The report of a study folder: one HTML file that needs nothing else, and Markdown, CSV and figures beside it.

Everything in the folder may be hostile: names, configurations and above all model text. HTML is autoescaped, the page's
own style and script are the only ones that its content policy lets run (by hash), model text stands in a JSON block that
cannot end its element, and the page may request nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reckoner import __version__
from reckoner.analysis import explorer, figures, tables
from reckoner.analysis.canvas import DARK, MARKS, Mark, dark_rules, inline, standalone
from reckoner.analysis.findings import Findings, find
from reckoner.analysis.readers import Key
from reckoner.analysis.study_records import RunRecord, read_study
from reckoner.analysis.summary import heading
from reckoner.analysis.verdict import limits, stories, verdict
from reckoner.runs.safe_paths import refuse_links, replacing, writing

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST = 3000
"""Characters of one text in the static part of a report."""


def build_report(folder: Path) -> Findings:
    """Write report.html, report.md, table.csv and figures/ into a study folder; returns what they say.

    Raises `InputError` where the folder is no study or does not fit together, `Stopped` where it cannot be written.
    """
    refuse_links(folder)
    found = find(read_study(folder))
    with writing(folder / "figures"):
        (folder / "figures").mkdir(exist_ok=True)
    pictures = figures.draw(found)
    facts = {**context(found), "figures": pictures}
    for picture in chain.from_iterable(pictures.values()):
        _write(folder / "figures" / f"{picture.name}.svg", standalone(picture))
        with replacing(folder / "figures" / f"{picture.name}.png") as file:
            file.write(picture.png)
    _write(folder / "table.csv", tables.to_csv(found))
    _write(folder / "report.md", render_markdown(facts))
    _write(folder / "report.html", render_html(facts, found))
    return found


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def context(found: Findings) -> dict[str, Any]:
    """What both templates show, as plain values."""
    return {
        "study": found.study,
        "version": __version__,
        "heading": heading(found),
        "verdict": verdict(found),
        "limits": limits(found),
        "arms": tables.arms(found),
        "chosen": _chosen(found),
        "pairs": tables.pairs(found),
        "losses": tables.losses(found),
        "gained": tables.gained(found),
        "stories": stories(found),
        "costs": tables.costs(found),
        "phase_costs": tables.phase_costs(found),
        "grids": tables.grids(found),
        "facts": _facts(found),
        "command": found.study.command
        or f"reckon study --preset {found.study.preset or 'nano'} run.seed={found.study.seed}",
        "prompts": _prompts(found),
        "samples": _samples(found),
        "runs": [
            {"title": arm.title, "documents": _documents(arm.run)} for arm in found.study.arms if arm.run
        ],
    }


def render_html(facts: dict[str, Any], found: Findings) -> str:
    """The self-contained page."""
    style = (
        asset("report.css")
        + arm_colours(found.marks)
        + f"@media screen and (prefers-color-scheme:dark){{{dark_rules()}}}"
    )
    script = asset("report.js")
    return (
        environment(autoescape=True)
        .get_template("report.html.j2")
        .render(
            **facts,
            inline=inline,
            style=style,
            style_hash=content_hash(style),
            script=script,
            script_hash=content_hash(script),
            shapes=[MARKS[mark.marker] for mark in found.marks],
            data=explorer.embed(explorer.payload(found)),
        )
    )


def render_markdown(facts: dict[str, Any]) -> str:
    """The same report as Markdown, with the figures as PNG files beside it."""
    text = environment(autoescape=False).get_template("report.md.j2").render(**facts)
    return re.sub(r"\n{3,}", "\n\n", text)


def environment(autoescape: bool) -> Environment:
    """Jinja over our templates, with the filters that make text harmless; a name that is missing is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"typeset": typeset, "visible": visible, "inert": inert, "fenced": fenced}
    return environment


def asset(name: str) -> str:
    """The text of one file in templates/."""
    return resources.files("reckoner.analysis").joinpath("templates", name).read_text(encoding="utf-8")


def content_hash(text: str) -> str:
    """The hash by which a content policy allows one style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def arm_colours(marks: Sequence[Mark]) -> str:
    """CSS that gives `.arm-0`, `.arm-1`, ... the colours of their marks, light and dark."""
    light = "".join(f".arm-{index}{{--arm:{mark.colour}}}" for index, mark in enumerate(marks))
    dark = "".join(
        f".arm-{index}{{--arm:{DARK.get(mark.colour, mark.colour)}}}" for index, mark in enumerate(marks)
    )
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def typeset(text: str) -> str:
    """Numbers with a true minus sign, a dash between the ends of an interval, and no line break before their unit."""
    dashed = re.sub(r"(?:(?<![\w.])|(?<=\de))-(?=\d)", "\u2212", re.sub(r"(?<=\d)-(?=\d)", "\u2013", text))
    return re.sub(r"(?<=\d) (?=%)|(?<=\bn) (?== \d)|(?<=\bn =) (?=\d)", "\u00a0", dashed)


def visible(text: str) -> str:
    """Text in which control characters and half surrogates can be seen and do nothing."""
    return re.sub(
        r"[\0-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", lambda match: f"\\x{ord(match[0]):02x}", text
    )


def inert(text: object) -> str:
    """Text for one line of Markdown in which nothing is markup, begins a list or rule, links or calls a user."""
    flat = " ".join(visible(str(text)).split())
    escaped = (
        re.sub(r"([\\`*_{}\[\]<>()#|~&!$])", r"\\\1", flat).replace("://", ":\\//").replace("@", "@\u2060")
    )
    return re.sub(r"^(\d{0,9})(?=[.+=-](?:[\s=-]|$))", r"\1\\", escaped)


def fenced(text: object) -> str:
    """A fenced block that the text cannot end."""
    shown = visible(str(text))
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def _chosen(found: Findings) -> str:
    """Which prompt is the baseline and why."""
    dev = [
        (result, result.run.evaluation("dev")) for result in found.results if result.arm.method == "prompt"
    ]
    scored = ", ".join(f"{result.title} {entry.strict:,}/{entry.n:,}" for result, entry in dev if entry)
    if found.baseline is None or not scored:
        return "No prompting arm was scored on dev, so there is no baseline."
    return f"Baseline: {found.baseline.title}, the best of the prompts on dev ({scored}). All of them are shown on test."


def _facts(found: Findings) -> list[tuple[str, str]]:
    """One-line facts of the whole study: what differs between arms is named as such."""
    runs, tests = [result.run for result in found.results], [result.evaluation for result in found.results]

    def all_of(values: list[Any]) -> str:
        return ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))

    opened = [f"{result.title} {result.evaluation.reads}" for result in found.results]
    reads = f"{tests[0].reads} by each arm" if len({e.reads for e in tests}) == 1 else ", ".join(opened)
    facts = [
        ("Model", found.study.model),
        ("Preset", found.study.preset),
        ("Seed", str(found.study.seed)),
        ("Grader", all_of([run.grader for run in runs])),
        ("Decoding", all_of([f"{e.decoding}, at most {e.max_new_tokens} new tokens" for e in tests])),
        ("Test problems", all_of([f"{e.n:,}" for e in tests])),
        ("Times that test was opened", reads),
        (
            "Data",
            all_of(
                [
                    f"{file.get('path')} ({file.get('rows')} rows, sha256 {str(file.get('sha256'))[:12]})"
                    for run in runs
                    for file in run.data.get("files", ())
                ]
            ),
        ),
        ("Processor", all_of([_processor(run.environment) for run in runs if run.environment])),
        (
            "Versions",
            all_of(
                [
                    f"{name} {version}"
                    for run in runs
                    for name, version in run.environment.get("versions", {}).items()
                ]
            ),
        ),
        ("Commit", all_of([run.environment.get("commit", "")[:12] for run in runs])),
    ]
    return [(name, value) for name, value in facts if value]


def _processor(environment: Mapping[str, Any]) -> str:
    """The processor and its cores; of these, how many a run had where arms ran side by side."""
    cores, allowed = environment.get("cores", "?"), environment.get("allowed_cores")
    return f"{environment.get('processor', '')}, {cores} cores{'' if allowed in (None, cores) else f', {allowed} for each arm'}"


def _prompts(found: Findings) -> list[dict[str, str]]:
    """Each prompt once, by its hash, with the arms that used it."""
    grouped: dict[str, dict[str, Any]] = {}
    for arm in found.study.arms:
        if arm.run and arm.run.prompt:
            entry = grouped.setdefault(
                str(arm.run.prompt.get("hash", "")), {"document": arm.run.prompt, "arms": []}
            )
            entry["arms"].append(arm.title)
    return [
        {
            "name": str(entry["document"].get("name", digest)),
            "arms": ", ".join(entry["arms"]),
            "rendered": str(entry["document"].get("rendered", "")),
            "note": f"Hash {digest}; {len(entry['document'].get('token_ids', ()))} tokens; chat template {'on' if entry['document'].get('chat_template') else 'off'}"
            + (
                f"; worked examples {', '.join(map(str, shots))}."
                if (shots := entry["document"].get("shots"))
                else "."
            ),
        }
        for digest, entry in grouped.items()
    ]


def _samples(found: Findings) -> list[dict[str, Any]]:
    """A few problems with all answers, the first of each pattern in the order of the split: no picking by hand."""
    if not found.results:
        return []
    best = max(found.results, key=lambda result: result.score.accuracy)
    base = found.baseline or found.results[0]
    graded = [result.source.grades for result in found.results]
    wanted: dict[str, Callable[[Key], bool]] = {
        f"{best.title} right, {base.title} wrong": lambda key: (
            best.source.grades[key].strict and not base.source.grades[key].strict
        ),
        f"{base.title} right, {best.title} wrong": lambda key: (
            base.source.grades[key].strict and not best.source.grades[key].strict
        ),
        "nobody right": lambda key: not any(grades[key].strict for grades in graded),
        "everybody right": lambda key: all(grades[key].strict for grades in graded),
    }
    shared = [key for key in best.source.grades if key[1] == 0 and all(key in grades for grades in graded)]
    chosen = ((why, next((key for key in shared if holds(key)), None)) for why, holds in wanted.items())
    return [_sample(found, key, why) for why, key in chosen if key is not None]


def _sample(found: Findings, key: Key, why: str) -> dict[str, Any]:
    problem = found.results[0].source.problems[key[0]]
    answers = [
        {
            "title": result.title,
            "verdict": result.source.grades[key].verdict.replace("_", " "),
            "tone": "right" if result.source.grades[key].strict else "wrong",
            "text": shorten(result.source.completions[key].text),
        }
        for result in found.results
    ]
    return {
        "id": problem.id,
        "why": why,
        "question": shorten(problem.question),
        "gold": problem.gold,
        "answers": answers,
    }


def shorten(text: str) -> str:
    """At most `LONGEST` characters, with the number left out."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"


def _documents(run: RunRecord) -> list[tuple[str, str]]:
    """The run's own files, readable."""
    documents = [("config.yaml", run.config)]
    for name in ("data", "environment"):
        value = getattr(run, name)
        documents.append((f"{name}.json", json.dumps(dict(value), indent=1) if value else ""))
    return [(name, text) for name, text in documents if text]
