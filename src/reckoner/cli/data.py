"""Verbs about data: what a set is like, what is learnt from it, and more of it."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from reckoner.cli.options import AsJson, Files, Preset, Settings, read_config
from reckoner.errors import InputError

if TYPE_CHECKING:
    from reckoner.config import Config
    from reckoner.runs.records import Problem

Grid = tuple[list[str], list[list[str]]]
data = typer.Typer(help="Look at a data set and at what is learnt from it, or make embedded problems.")


@data.command()
def stats(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    against: Annotated[
        str,
        Option(metavar="PATH", help="folder of GSM8K's files to show beside it, without dev"),
    ] = "",
    tokens: Annotated[bool, Option("--tokens", help="lengths in the model's tokens too")] = False,
    also: Annotated[
        list[Path] | None,
        Option("--also", metavar="FILE", help="JSONL of questions that were trained on too; repeatable"),
    ] = None,
    untrained: Annotated[
        bool, Option("--untrained", help="ask the untrained model what it knows of test; opens test")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Sizes, lengths, annotations, what of test stands in train, and the floors to beat.

    Begin the settings with the name of a file of your own to see how its columns are understood.
    """
    from reckoner import console
    from reckoner.analysis.datastats import describe, most_frequent_gold, table_rows
    from reckoner.tasks import gsm8k

    if settings and "=" not in settings[0]:
        if not Path(settings[0]).exists():
            raise InputError(f"{settings[0]}: no such file. Settings are written as section.key=value")
        show_file(settings[0], settings[1:], partial(read_config, preset, files), as_json)
        return
    config = read_config(preset, files, settings)
    measures = {"characters": len}
    if tokens:
        from reckoner.models.policy import load_policy

        tokenizer = load_policy(config.model, config.peft, train=False).tokenizer
        measures["tokens"] = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    sources = {"": config.problem_source()} | (
        {"real ": {"source": "gsm8k", "path": against}} if against else {}
    )
    sets: dict[str, Any] = {}
    files_read = []
    for label, source in sources.items():
        splits = _splits(source)
        constant = most_frequent_gold(splits.get("train") or splits["test"])
        sets |= {f"{label}{name}": describe(rows, constant, measures) for name, rows in splits.items()}
        files_read += gsm8k.files(**source)
    shown = {name: facts for name, facts in sets.items() if not (against and name.endswith("dev"))}
    lines = ["8 exemplars for prompts are in none of these"] if "train" in sets else []
    for file in files_read:
        published = f" ({file['published']}, as published)" if file["published"] else ""
        line = f"{file['path']}: {file['rows']:,} rows, sha256 {file['sha256']}{published}"
        lines.append(console.escape(line, newlines=False))
    overlaps, tables = _contamination(config, also or [], untrained)
    tables = [([config.data.variant, *shown], table_rows(shown)), *tables]
    console.show({"files": files_read, "sets": sets, "contamination": overlaps}, as_json, tables, lines)


def _contamination(config: Config, also: Sequence[Path], untrained: bool) -> tuple[dict[str, Any], list[Any]]:
    """What of test stands in what is learnt or shown, and what the untrained model knows of it."""
    from reckoner.analysis import contamination
    from reckoner.analysis.readers import read_questions
    from reckoner.analysis.statistics import paired_difference
    from reckoner.tasks import gsm8k
    from reckoner.tasks.overlap import overlap

    source = config.problem_source()
    splits = _splits(source)
    test = splits.pop("test", [])
    if not test or not splits:
        return {}, []
    sets = {name: [one.question for one in problems] for name, problems in splits.items()}
    sets["exemplars"] = [one.question for one in gsm8k.exemplars(**source)]
    sets |= {str(path): read_questions(path) for path in also}
    found = {name: overlap(test, questions) for name, questions in sets.items()}
    document: dict[str, Any] = {"overlap": {name: asdict(one) for name, one in found.items()}}
    tables = [contamination.overlap_table(found)]
    if untrained:
        from reckoner.evaluation.contamination import ask_untrained

        others = [contamination.renumber(problem, config.run.seed) for problem in test]
        kept = [(one, other) for one, other in zip(test, others, strict=True) if other]
        originals, renumbered = [one for one, _ in kept], [other for _, other in kept]
        finished, before, after = ask_untrained(config, test, originals, renumbered)
        difference = paired_difference(before, after) if kept else None
        document |= {
            "finished": [one.id for one, done in zip(test, finished, strict=True) if done],
            "renumbered": asdict(difference) if difference else None,
        }
        tables.append(contamination.model_table(finished, difference))
    return document, tables


@data.command()
def suites(as_json: AsJson = False) -> None:
    """The known data sets that data.suite=NAME and study.suites take, with licence, size and known faults."""
    from reckoner import console
    from reckoner.config.suites import read_suite, suite_names

    found = [read_suite(name) for name in suite_names()]
    rows = []
    for suite in found:
        counts = suite.about.get("counts", {})
        sizes = ", ".join(f"{count:,} {split}" for split, count in counts.items() if split != "file")
        kind = suite.layer.get("task", {}).get("answer_kind", "number")
        rows.append([suite.name, suite.about["title"], kind, sizes, suite.about["licence"]])
    faults = [f"{suite.name}: {text}" for suite in found if (text := suite.about.get("faults"))]
    document = [{"name": s.name, **s.about, "settings": s.layer} for s in found]
    columns = ["suite", "what it is", "answer", "problems", "licence"]
    console.show(document, as_json, [(columns, rows)], [*dict.fromkeys(faults)])


@data.command("show-labels")
def show_labels(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    n: Annotated[int, Option("-n", min=1, help="problems to show")] = 3,
) -> None:
    """Show the exact prompt and the supervised tokens of train problems, each token with its id."""
    from reckoner import console
    from reckoner.evaluation.evaluate import encode, make_prompt
    from reckoner.evaluation.session import load_problems
    from reckoner.models.policy import load_policy
    from reckoner.training.rollout_log import token_texts

    config = read_config(preset, files, settings)
    policy = load_policy(config.model, config.peft, train=False)
    for example in encode(policy, make_prompt(config, policy), load_problems(config, "train")[:n]):
        prompt, answer = len(example.prompt_ids), len(example.completion_ids)
        head = f"{example.id}: {prompt} prompt tokens, {answer} supervised tokens"
        print(console.escape(head, newlines=False))
        ids = [*example.prompt_ids, *example.completion_ids]
        texts = token_texts(policy.tokenizer, ids, skip_special_tokens=False)
        console.print_tokens(
            [(text, token, i >= prompt) for i, (text, token) in enumerate(zip(texts, ids, strict=True))]
        )


@data.command("pass-rates")
def pass_rates(
    run: Annotated[Path, Argument(metavar="RUN", help="folder of a run with rollout.pass_rate or order")],
    as_json: AsJson = False,
) -> None:
    """How often the policy that RUN started from solved its train problems, with the interval of one."""
    from reckoner import console
    from reckoner.analysis.intervals import wilson
    from reckoner.runs.records import read_json
    from reckoner.training.pass_rates import NAME, PassRates

    rates = read_json(run / NAME, PassRates)
    counts, n = Counter(rates["passes"].values()), rates["samples"]
    rows = [
        [f"{k} of {n}", f"{100 * wilson(k, n)[0]:.0f} to {100 * wilson(k, n)[1]:.0f} %", f"{counts[k]:,}"]
        for k in range(n + 1)
    ]
    lines = [f"{len(rates['passes']):,} train problems, {n} completions each at {rates['temperature']:g}"]
    console.show(dict(rates), as_json, [(["solved", "95 % interval of one", "problems"], rows)], lines)


@data.command()
def augment(
    output: Annotated[Path, Argument(metavar="FOLDER", help="new folder; data.path=FOLDER reads it")],
    kind: Annotated[list[str], Option("--kind", help="renumber, reverse, sample or paraphrase; repeatable")],
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    times: Annotated[
        int, Option("-n", min=1, help="most renumbered problems, and most sampled solutions, of a question")
    ] = 1,
    runs: Annotated[
        list[Path] | None, Option("--run", help="run whose right completions are sampled solutions")
    ] = None,
    model: Annotated[
        str, Option(metavar="MODEL", help="rewords questions; with --endpoint its name there")
    ] = "",
    endpoint: Annotated[str, Option(metavar="URL", help="OpenAI-compatible server that rewords")] = "",
    solver: Annotated[str, Option(metavar="MODEL", help="solves what was reworded (default: --model)")] = "",
    as_json: AsJson = False,
) -> None:
    """Add problems made of train problems, each verified; dev, exemplars and test stay as they are."""
    from reckoner.analysis import augment as library
    from reckoner.runs.records import write_jsonl
    from reckoner.runs.safe_paths import writing
    from reckoner.tasks import gsm8k

    if ("sample" in kind) != bool(runs):
        raise InputError("--kind sample and --run RUN belong together")
    if ("paraphrase" in kind) != bool(model) or (endpoint or solver) and not model:
        raise InputError("--kind paraphrase and --model MODEL belong together; --endpoint needs both")
    if output.exists():
        raise InputError(f"{output} is there already; give a new folder")
    address = [f"endpoint.url={endpoint}"] if endpoint else []
    config = read_config(preset, files, [*(settings or []), *address], model)
    config.model.model_name_or_path = model or config.model.model_name_or_path
    source, variant = config.problem_source(), config.data.variant
    splits = _splits(source)
    if "train" not in splits:
        raise InputError("there are no train problems: only they have relatives. Name a set that has some")
    held = [*gsm8k.exemplars(**source), *splits.get("dev", [])]
    taken = {gsm8k.question_hash(one.question) for problems in (held, *splits.values()) for one in problems}
    texts = _completions(runs or [], source)
    made, left_out = library.augment(splits["train"], kind, times, config.run.seed, taken, texts)
    if "paraphrase" in kind:
        new, why = _paraphrases(config, solver, splits["train"], output)
        made += library.unseen(new, taken | {gsm8k.question_hash(one.question) for one in made})
        left_out += why
    if not made:
        raise InputError(
            f"nothing can be made of {len(splits['train']):,} train problems by {' '.join(kind)}"
        )
    with writing(output):
        output.mkdir(parents=True)
    rows = {"train": [*held, *splits["train"], *made], "test": splits.get("test", [])}
    for split, problems in rows.items():
        if problems:
            write_jsonl(output / gsm8k.file_name(split, variant), library.rows_of(problems))
    _forget_answers(kind, output)
    counts = {"train, as before": len(splits["train"]), **library.count_kinds(made)}
    read_by = library.reading_settings(str(output), len(splits.get("dev", [])))
    _show_augmented(counts, left_out, f"settings that read it: {shlex.join(read_by)}", as_json)


def _paraphrases(
    config: Config, solver: str, train: Sequence[Problem], output: Path
) -> tuple[list[Problem], Counter[str]]:
    """A paraphrase of each question of `train` that has one, and why others have none."""
    from reckoner import console
    from reckoner.evaluation.paraphrase import paraphrased

    parents = list({one.question: one for one in reversed(train)}.values())[::-1]
    with console.progress() as shown:
        show = shown.callback(Path(config.model.model_name_or_path).name)
        return paraphrased(config, solver, parents, output, show)


def _forget_answers(kinds: Sequence[str], output: Path) -> None:
    """The answers of models are in the folder now. Imports torch, so only where there are any."""
    if "paraphrase" in kinds:
        from reckoner.evaluation.paraphrase import forget

        forget(output)


def _show_augmented(counts: dict[str, int], left_out: Counter[str], keep: str, as_json: bool) -> None:
    """How many problems of each kind were made, how many parents were left out, and what reads the folder."""
    from reckoner import console

    reasons = dict(left_out.most_common())
    tables = [(["problems", "count"], [[name, f"{count:,}"] for name, count in counts.items()])]
    if reasons:
        tables.append((["left out", "count"], [[why, f"{n:,}"] for why, n in reasons.items()]))
    document = {**counts, "left out": reasons}
    console.show(document, as_json, tables, [console.escape(keep, newlines=False)])


def _completions(runs: Sequence[Path], source: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Problem id and text of what runs kept; in a run on other data, the same id may mean another problem."""
    from reckoner.runs.documents import Inputs
    from reckoner.runs.records import read_json
    from reckoner.tasks import gsm8k
    from reckoner.training.rollout_log import kept_steps, read_transcripts

    for run in runs:
        steps, pinned = kept_steps(run), read_json(run / "inputs.json", Inputs)
        train = next(file for file in gsm8k.files(**source) if file["split"] == "train")
        if train["sha256"] not in pinned.values():
            raise InputError(f"{run}: drew from other data than these settings read. Give its data settings")
        for step in steps:
            yield from ((one.problem_id, one.text) for one in read_transcripts(run, step))


@data.command()
def make(
    n: Annotated[int, Option(min=1, help="how many problems")],
    seed: Annotated[int, Option(help="another seed, other problems")] = 0,
    variant: Annotated[str, Option(help="main or socratic solutions")] = "main",
    category: Annotated[str, Option(help="problems of one kind only")] = "",
    output: Annotated[str, Option(metavar="FILE", help="JSONL to write; '-' is stdout")] = "-",
) -> None:
    """Make embedded problems in GSM8K's form, in neither train nor test; data.path=FILE reads them."""
    from reckoner.nano import stream
    from reckoner.runs.records import dumps
    from reckoner.runs.safe_paths import check_output, replacing

    problems = stream(n, seed, variant, category or None)
    if output != "-":
        check_output(Path(output))
    with nullcontext(sys.stdout.buffer) if output == "-" else replacing(Path(output)) as file:
        for problem in problems:
            row = {
                "id": problem.id,
                "question": problem.question,
                "answer": problem.solution,
                "category": problem.category,
                "template": problem.template,
                "steps": problem.steps,
            }
            file.write(f"{dumps(row)}\n".encode())


def _splits(source: dict[str, Any]) -> dict[str, list[Any]]:
    """The splits at hand; a single file has no test problems, and some known sets have no others.

    Raises `InputError` where there are none.
    """
    from reckoner.tasks import gsm8k

    held = {file["split"] for file in gsm8k.files(**source)}
    parts = {"train": "train", "dev": "train", "test": "test"}
    names = [name for name, part in parts.items() if part in held or not held]
    splits: dict[str, list[Any]] = {name: gsm8k.load(name, **source) for name in names}
    return {name: problems for name, problems in splits.items() if problems}


def show_file(
    file: str, settings: list[str], config_of: Callable[[list[str]], Config], as_json: bool
) -> None:
    """What the columns of a file of one's own seem to be, three problems, and the settings to keep."""
    from reckoner import console
    from reckoner.analysis.datastats import describe, most_frequent_gold, table_rows
    from reckoner.tasks import gsm8k

    keep = [*_guess(file, settings), *settings]
    problems = gsm8k.every(**config_of(keep).problem_source())
    facts = {"all": describe(problems, most_frequent_gold(problems), {"characters": len})}
    rows = [[p.question[:200], p.solution[-120:], f"{p.gold} ({p.kind})"] for p in problems[:3]]
    tables: list[Grid] = [(["question", "end of the solution", "gold"], rows)]
    tables.append((["", "all"], table_rows(facts)))
    line = console.escape(f"settings to keep: {shlex.join(keep)}", newlines=False)
    console.show({"settings": keep, "sets": facts}, as_json, tables, [line])


def _guess(file: str, settings: Sequence[str]) -> list[str]:
    """The settings that read a file: `data.path`, and what its columns seem to be unless the user says it."""
    from reckoner.config.load import typed_settings
    from reckoner.tasks.shapes import guess_settings
    from reckoner.tasks.tables import read_table

    given = typed_settings(settings)
    table = read_table(Path(file), *(str(given.get(name, "")) for name in ("task.columns", "task.records")))
    rows = [row for _, row in islice(table, 400) if not isinstance(row, InputError)]
    if not rows:
        raise InputError(f"{file}: holds no row that can be read")
    own = {"data.path": file} | ({} if "data.suite" in given else guess_settings(rows, given))
    return [f"{name}={value}" for name, value in own.items()]
