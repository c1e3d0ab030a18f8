"""The report of a study folder: report.html, and Markdown, CSV and figures beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reckoner.analysis import figures, study_tables
from reckoner.analysis.canvas import Picture, standalone
from reckoner.analysis.controls import splits
from reckoner.analysis.difficulty import difficulty_table
from reckoner.analysis.explorer import study_contents
from reckoner.analysis.findings import Findings, Result, find
from reckoner.analysis.generalisation import ledger_tables
from reckoner.analysis.limits import limits
from reckoner.analysis.page import environment, render_page, write_text
from reckoner.analysis.reach import reach_table
from reckoner.analysis.readers import Key
from reckoner.analysis.sentences import baseline_sentence, heading, seed_list, verdict
from reckoner.analysis.study_records import read_study
from reckoner.analysis.tables import Table, csv_text
from reckoner.runs.safe_paths import refuse_links, replacing, writing

Pictures = Mapping[str, Sequence[Picture]]


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the report: its paragraphs, figures and tables, and the tables that are shown folded."""

    id: str
    title: str
    text: Sequence[str]
    pictures: Sequence[Picture]
    tables: Sequence[Table]
    folded: Sequence[Table]


def build_report(folder: Path) -> Findings:
    """Write report.html, report.md, table.csv and figures/ into a study folder; returns what they show.

    Raises `InputError` where the folder is no study or does not fit together, `Stopped` where it cannot
    be written.
    """
    refuse_links(folder)
    findings = find(read_study(folder))
    with writing(folder / "figures"):
        (folder / "figures").mkdir(exist_ok=True)
    facts = context(findings, figures.draw(findings))
    for picture in facts["pictures"]:
        file = folder / "figures" / picture.name
        write_text(file.with_suffix(".svg"), standalone(picture))
        write_text(file.with_suffix(".csv"), csv_text(picture.data))
        with replacing(file.with_suffix(".png")) as png:
            png.write(picture.png)
    write_text(folder / "table.csv", study_tables.numbers(findings).csv())
    write_text(folder / "report.md", render_markdown(facts))
    write_text(folder / "report.html", render_html(facts, findings))
    return findings


def document(findings: Findings) -> dict[str, Any]:
    """The study as plain JSON values: every arm with its state, the whole comparison, and the sentences."""
    return {
        "study": findings.study.name,
        "seed": findings.study.seed,
        "baseline": findings.study.baseline.name if findings.study.baseline else None,
        "arms": [
            {"name": arm.name, "title": arm.title, "state": arm.state, "reason": arm.reason}
            for arm in findings.study.arms
        ],
        "comparison": asdict(findings.comparison) if findings.comparison else None,
        "verdict": verdict(findings),
        "splits": [
            {
                "arm": split.gain.result.arm.name,
                "start": split.gain.start.arm.name,
                "gain": asdict(split.gain.strict),
                **{name: [asdict(part) for part in getattr(split, name)] for name in ("parts", "placebos")},
                "budgets": split.budgets,
                "endings": {title: asdict(one) for title, one in split.endings.items()},
            }
            for split in splits(findings)
        ],
        "limits": limits(findings),
        "report": str(findings.study.folder / "report.html"),
    }


def sections(findings: Findings, pictures: Pictures) -> list[Section]:
    """The parts of the report between its first screen and the explorer, those with something to show."""
    others, grids = ledger_tables(findings), study_tables.grids(findings)
    reinforcement = [
        study_tables.gained(findings),
        study_tables.parted(findings),
        study_tables.reached(findings),
    ]
    samples = [
        table
        for one in findings.reaches
        for table in (reach_table(one), difficulty_table(one.end.name, one.bands))
    ]
    tables: dict[str, tuple[str, Sequence[str], Sequence[Table], Sequence[Table]]] = {
        "accuracy": (
            "Differences",
            verdict(findings)[2:],
            [study_tables.pairs(findings)],
            [study_tables.matrix(findings), study_tables.inference(findings)],
        ),
        "generalisation": ("Other sets", (), others[:1], others[1:]),
        "learning": ("Learning", (), [study_tables.losses(findings)], ()),
        "reinforcement": (
            "Reinforcement learning",
            (),
            reinforcement,
            [study_tables.controls(findings), *samples],
        ),
        "cost": ("Cost", (), [study_tables.costs(findings)], [study_tables.phase_costs(findings)]),
        "errors": ("Errors", (), grids[:1], grids[1:]),
    }
    found = []
    for name, (title, text, shown, folded) in tables.items():
        filled = [[table for table in several if table.rows] for several in (shown, folded)]
        found.append(Section(name, title, text, pictures.get(name, ()), *filled))
    return [one for one in found if one.text or one.pictures or one.tables or one.folded]


def basics(findings: Findings) -> dict[str, Any]:
    """What the templates of the report and of the slides show, as plain values."""
    study = findings.study
    return {
        "study": study,
        "heading": heading(findings),
        "verdict": verdict(findings),
        "limits": limits(findings),
        "arms": study_tables.arms(findings),
        "baseline": baseline_sentence(findings),
        "facts": _facts(findings),
        "command": study.command or f"reckon study --preset {study.preset or 'nano'} run.seed={study.seed}",
        "prompts": _prompts(findings),
        "samples": samples(findings),
    }


def context(findings: Findings, pictures: Pictures) -> dict[str, Any]:
    """What the templates of the report show; the first figure of accuracy stands on the first screen."""
    first = next(iter(pictures.get("accuracy", ())), None)
    rest = {name: [one for one in several if one is not first] for name, several in pictures.items()}
    return basics(findings) | {
        "first": first,
        "pictures": [one for several in pictures.values() for one in several],
        "sections": sections(findings, rest),
        "results": findings.results,
        "runs": [(arm.title, arm.run) for arm in findings.study.arms if arm.run],
    }


def render_html(facts: dict[str, Any], findings: Findings) -> str:
    """The self-contained page."""
    data = study_contents(findings) | {"figures": {one.name: one.data for one in facts["pictures"]}}
    return render_page("report.html.j2", findings.marks, data, facts)


def render_markdown(facts: dict[str, Any]) -> str:
    """The same report as Markdown, with the figures as PNG files beside it."""
    text = environment(autoescape=False).get_template("report.md.j2").render(**facts)
    return re.sub(r"\n{3,}", "\n\n", text)


def _facts(findings: Findings) -> list[tuple[str, str]]:
    """One-line facts of the whole study; what differs between arms is listed."""
    runs, tests = (
        [result.run for result in findings.results],
        [result.evaluation for result in findings.results],
    )
    seeds = seed_list(findings)
    opened = [f"{result.title} {result.evaluation.reads}" for result in findings.results]
    same = len({test.reads for test in tests}) == 1
    environments = [run.environment for run in runs if run.environment]
    files = [file for run in runs for file in run.data.get("files", ())]
    versions = [item for one in environments for item in one.get("versions", {}).items()]
    facts: dict[str, Iterable[object]] = {
        "Model": [findings.study.model],
        "Preset": [findings.study.preset],
        "Seeds" if len(seeds) > 1 else "Seed": seeds,
        "Grader": [run.grader for run in runs],
        "Decoding": [f"{test.decoding}, at most {test.max_new_tokens} new tokens" for test in tests],
        "Test problems": [f"{test.n:,}" for test in tests],
        "Times that test was opened": [f"{tests[0].reads} by each arm"] if same else opened,
        "Data": [
            f"{file.get('path')} ({_grouped(file.get('rows'))} rows, sha256 {str(file.get('sha256'))[:12]})"
            for file in files
        ],
        "Processor": map(_processor, environments),
        "Versions": [f"{name} {version}" for name, version in versions],
        "Commit": [one.get("commit", "")[:12] for one in environments],
    }
    joined = {
        name: ", ".join(dict.fromkeys(str(value) for value in values if value not in (None, "")))
        for name, values in facts.items()
    }
    return [(name, text) for name, text in joined.items() if text]


def _grouped(count: object) -> str:
    return f"{count:,}" if isinstance(count, int) else str(count)


def _processor(environment: Mapping[str, Any]) -> str:
    """The processor and its cores; of these, how many a run had where arms ran side by side."""
    cores, allowed = environment.get("cores", "?"), environment.get("allowed_cores")
    each = "" if allowed in (None, cores) else f", {allowed} for each arm"
    return f"{environment.get('processor', '')}, {cores} cores{each}"


def _prompts(findings: Findings) -> list[dict[str, str]]:
    """Each prompt once, by its hash, with the arms that used it."""
    users: dict[str, list[str]] = {}
    documents: dict[str, Mapping[str, Any]] = {}
    for arm in findings.study.arms:
        if arm.run and arm.run.prompt:
            digest = str(arm.run.prompt.get("hash", ""))
            documents.setdefault(digest, arm.run.prompt)
            users.setdefault(digest, []).append(arm.title)
    return [
        {
            "name": str(prompt.get("name", digest)),
            "arms": ", ".join(users[digest]),
            "rendered": str(prompt.get("rendered", "")),
            "note": _prompt_note(digest, prompt),
        }
        for digest, prompt in documents.items()
    ]


def _prompt_note(digest: str, prompt: Mapping[str, Any]) -> str:
    template = "on" if prompt.get("chat_template") else "off"
    note = f"Hash {digest}; {len(prompt.get('token_ids', ()))} tokens; chat template {template}"
    shots = prompt.get("shots")
    return f"{note}; worked examples {', '.join(map(str, shots))}." if shots else f"{note}."


def samples(findings: Findings) -> list[dict[str, Any]]:
    """A few problems with all answers, the first of each pattern in the order of the split."""
    if not findings.results:
        return []
    best = max(findings.results, key=lambda result: result.score.accuracy)
    base = findings.baseline or findings.results[0]

    def right(result: Result, key: Key) -> bool:
        return result.source.grades[key].strict

    wanted: dict[str, Callable[[Key], bool]] = {
        f"{best.title} right, {base.title} wrong": lambda key: right(best, key) and not right(base, key),
        f"{base.title} right, {best.title} wrong": lambda key: right(base, key) and not right(best, key),
        "nobody right": lambda key: not any(right(result, key) for result in findings.results),
        "everybody right": lambda key: all(right(result, key) for result in findings.results),
    }
    shared = [
        key
        for key in best.source.grades
        if key[1] == 0 and all(key in result.source.grades for result in findings.results)
    ]
    chosen = ((why, next(filter(holds, shared), None)) for why, holds in wanted.items())
    problems = findings.results[0].source.problems
    return [{"why": why, "key": key, "problem": problems[key[0]]} for why, key in chosen if key is not None]
