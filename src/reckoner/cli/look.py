"""Verbs that look at things: data, rollouts, plan, doctor."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from reckoner.cli.options import AsJson, Files, Preset, Settings, read_config
from reckoner.faults import InputError

verbs = typer.Typer()


@verbs.command()
def rollouts(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a ppo or grpo run")],
    step: Annotated[int, typer.Option("--step", min=0, help="which step; 0 is the last one kept")] = 0,
    n: Annotated[int, typer.Option("-n", min=1, help="completions to show")] = 8,
    problem: Annotated[str, typer.Option("--problem", metavar="ID", help="only this problem's")] = "",
    as_json: AsJson = False,
) -> None:
    """Read what a run wrote at a step: reward and text, coloured by advantage (green: made likelier, red: less likely)."""
    from reckoner import console
    from reckoner.transcripts import kept_steps, read_transcripts, shades

    step = step or kept_steps(run)[-1]
    found = [one for one in read_transcripts(run, step) if problem in ("", one.problem_id)]
    if not found:
        raise InputError(f"{run}: problem {problem} was not drawn at step {step}")
    if as_json:
        console.print_json([asdict(one) for one in found[:n]])
        return
    print(
        f"step {step}: {min(n, len(found))} of {len(found)} completions, mean reward {sum(one.reward for one in found) / len(found):.3f}"
    )
    for one, parts in zip(found, shades(run, found[:n]), strict=False):
        mean = sum(one.advantages) / max(1, len(one.advantages))
        said = f"{one.problem_id} sample {one.sample}: {one.verdict}, reward {one.reward:g}, advantage {mean:+.2f}, log-prob {one.logprob:.1f}"
        print(f"\n{console.escape(said, newlines=False)}")
        console.print_shaded(parts)


data = typer.Typer(help="Look at a data set and at what is learnt from it, or make embedded problems.")
verbs.add_typer(data, name="data")


@data.command()
def stats(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    against: Annotated[
        str,
        typer.Option(
            "--against", metavar="PATH", help="a folder of GSM8K's files to show beside it, without dev"
        ),
    ] = "",
    tokens: Annotated[bool, typer.Option("--tokens", help="lengths in the model's tokens too")] = False,
    as_json: AsJson = False,
) -> None:
    """Sizes, lengths, annotations, and the floors that any method must beat."""
    from reckoner import console
    from reckoner.analysis.datastats import describe, most_frequent_gold, table_rows
    from reckoner.tasks import gsm8k

    config = read_config(preset, files, settings)
    measures = {"characters": len}
    if tokens:
        from reckoner.models.policy import load_policy

        tokenizer = load_policy(config.model, config.peft, train=False).tokenizer
        measures["tokens"] = lambda text: len(tokenizer.encode(text, add_special_tokens=False))
    sources = {"": asdict(config.data)} | ({"real ": {"source": "gsm8k", "path": against}} if against else {})
    sets: dict[str, Any] = {}
    found = []
    for label, source in sources.items():
        parts = _splits(source)
        constant = most_frequent_gold(parts["train"])
        sets |= {
            f"{label}{split}": describe(problems, constant, measures) for split, problems in parts.items()
        }
        found += gsm8k.files(**source)
    if as_json:
        console.print_json({"files": found, "sets": sets})
        return
    shown = {name: found for name, found in sets.items() if not (against and name.endswith("dev"))}
    console.table([config.data.variant, *shown], table_rows(shown))
    print("8 exemplars for prompts are in none of these")
    for file in found:
        named = f" ({file['published']}, as published)" if file["published"] else ""
        print(
            console.escape(
                f"{file['path']}: {file['rows']:,} rows, sha256 {file['sha256']}{named}", newlines=False
            )
        )


@data.command("show-labels")
def show_labels(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    n: Annotated[int, typer.Option("-n", min=1, help="problems to show")] = 3,
) -> None:
    """Show the exact prompt and the supervised tokens of train problems, each token with its id."""
    from reckoner import console
    from reckoner.evaluate import load_problems, make_prompt
    from reckoner.models.policy import load_policy
    from reckoner.training import encode

    config = read_config(preset, files, settings)
    policy = load_policy(config.model, config.peft, train=False)
    for example in encode(policy, make_prompt(config, policy), load_problems(config, "train")[:n]):
        prompt, answer = len(example.prompt_ids), len(example.completion_ids)
        print(
            console.escape(
                f"{example.id}: {prompt} prompt tokens, {answer} supervised tokens", newlines=False
            )
        )
        ids = [*example.prompt_ids, *example.completion_ids]
        texts = _pieces(policy.tokenizer, ids)
        console.print_tokens(
            [(text, token, i >= prompt) for i, (text, token) in enumerate(zip(texts, ids, strict=True))]
        )


@data.command()
def make(
    n: Annotated[int, typer.Option("--n", min=1, help="how many problems")],
    seed: Annotated[int, typer.Option("--seed", help="another seed, other problems")] = 0,
    variant: Annotated[str, typer.Option("--variant", help="main or socratic solutions")] = "main",
    category: Annotated[str, typer.Option("--category", help="problems of one kind only")] = "",
    output: Annotated[
        str, typer.Option("--output", metavar="FILE", help="JSONL to write; '-' is stdout")
    ] = "-",
) -> None:
    """Make embedded problems in GSM8K's form that are in neither train nor test; data.path=FILE reads them."""
    from reckoner.records import dumps
    from reckoner.tasks.nano import stream

    problems = stream(n, seed, variant, category or None, late=True)
    try:
        opened = (
            nullcontext(sys.stdout) if output == "-" else open(output, "w", encoding="ascii", newline="\n")
        )
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror})") from error
    with opened as file:
        for problem in problems:
            row = {"id": problem.id, "question": problem.question, "answer": problem.solution}
            row |= {"category": problem.category, "template": problem.template, "steps": problem.steps}
            file.write(f"{dumps(row)}\n")


def _splits(source: dict[str, Any]) -> dict[str, list[Any]]:
    """The splits at hand; a single file has no test problems."""
    from reckoner.tasks import gsm8k

    names = ["train", "dev", *("test" for file in gsm8k.files(**source) if file["split"] == "test")]
    parts = {name: gsm8k.load(name, **source) for name in names}
    return {name: problems for name, problems in parts.items() if problems}


def _pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text that each token adds; a token that ends inside a character adds nothing, and the next one adds it whole."""
    pieces, shown = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(
            ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False
        ).rstrip("\ufffd")
        pieces.append(text[len(shown) :])
        shown = text
    return pieces


@verbs.command()
def plan(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    only: Annotated[
        str, typer.Option("--arm", metavar="NAME", help="this arm alone, with every figure")
    ] = "",
    on: Annotated[
        str,
        typer.Option(
            "--on", metavar="DEVICE", help="cpu, h100, h200, a100, l40s or rtx4090; default: what is here"
        ),
    ] = "",
    gpus: Annotated[
        int, typer.Option("--gpus", min=1, max=1024, help="how many; also shows 1, 2, 4, ... up to it")
    ] = 1,
    measure: Annotated[
        bool, typer.Option("--measure", help="time this machine for a second instead of assuming its speed")
    ] = False,
    rate: Annotated[
        float, typer.Option("--rate", min=0, help="price of one device for an hour, in any currency")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Parameters, steps, memory, time and cost of every arm of a study, without weights or network."""
    from reckoner import console
    from reckoner.plan import measured_machine, plan_counts, tables

    config = read_config(preset, files, settings)
    measured = measured_machine(config, on) if measure else None
    by_count = plan_counts(config, only, gpus, on=on, measured=measured, rate_per_hour=rate or None)
    plans = by_count[gpus]
    if as_json:
        console.print_json([one.to_dict() for one in plans])
    elif len(plans) == 1:
        console.table(["plan", "value"], tables.run_rows(plans[0]))
    else:
        print(
            console.escape(
                f"{plans[0].model}, {plans[0].parameters:,} parameters, {plans[0].precision}", newlines=False
            )
        )
        for table in (tables.arm_table(plans), tables.memory_table(plans), tables.time_table(plans)):
            print()
            console.table(*table)
    if gpus > 1 and not as_json:
        print()
        console.table(*tables.gpu_table(by_count))
    assumed = [f"assumed: {line}" for line in tables.assumptions(plans)] if len(plans) > 1 else []
    for line in ["", *assumed, tables.too_large(plans)] if not as_json else []:
        print(console.escape(line, newlines=False))


@verbs.command()
def verify(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="a finished run, or a study: then each of its finished arms")
    ],
    as_json: AsJson = False,
) -> None:
    """Check every file of a finished run, its data and its base model against the hashes noted when it finished."""
    from reckoner import console
    from reckoner.verify import verify as check

    found = check(run)
    if as_json:
        console.print_json([asdict(one) for one in found])
    else:
        states = [
            ["changed" if one.faults else "as it was", one.run, sum(one.files.values()), one.manifest]
            for one in found
        ]
        console.table(["state", "run", "files", "sha256 of its manifest"], states)
        for line in (f"{one.run}: not checked: {what}" for one in found for what in one.unchecked):
            print(console.escape(line, newlines=False))
    if faults := [fault.replace("\n", " ") for one in found for fault in one.faults]:
        raise InputError("\n".join(faults))


@verbs.command()
def doctor(as_json: AsJson = False) -> None:
    """The environment, ready to paste into a bug report: versions and hardware, no names, paths or secrets."""
    import torch

    from reckoner import console
    from reckoner.config import preset_names
    from reckoner.models.sources import verified_embedded
    from reckoner.runs import environment

    verified_embedded()
    found = environment()
    found["threads"] = torch.get_num_threads()
    found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    found["embedded_model"] = "verified"
    found["presets"] = preset_names()
    if as_json:
        console.print_json(found)
        return
    rows = [(name, value) for name, value in found.items() if not isinstance(value, dict | list)]
    rows += [(f"version of {name}", version) for name, version in found["versions"].items()]
    rows += [(name, ", ".join(found[name]) or "none") for name in ("gpus", "presets")]
    console.table(["environment", "value"], rows)
