"""Verbs that inspect: rollouts, plan, verify, doctor, and those about data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from reckoner.cli.data import data
from reckoner.cli.options import AsJson, Files, Preset, Settings, config_of, read_config, use_threads
from reckoner.errors import InputError

if TYPE_CHECKING:
    from reckoner.config import Config
    from reckoner.plan import Plan

verbs = typer.Typer()
Grid = tuple[list[str], list[list[str]]]


@verbs.command()
def rollouts(
    run: Annotated[Path, Argument(metavar="RUN", help="folder of a ppo or grpo run")],
    step: Annotated[int, Option(min=0, help="which step; 0 is the last one kept")] = 0,
    n: Annotated[int, Option("-n", min=1, help="completions to show")] = 8,
    problem: Annotated[str, Option(metavar="ID", help="only this problem's")] = "",
    as_json: AsJson = False,
) -> None:
    """Read what a run wrote at a step, coloured by advantage (green: made likelier, red: less likely)."""
    from reckoner import console
    from reckoner.training.rollout_log import kept_steps, read_transcripts, shades

    step = step or kept_steps(run)[-1]
    drawn = [one for one in read_transcripts(run, step) if problem in ("", one.problem_id)]
    if not drawn:
        raise InputError(f"{run}: problem {problem} was not drawn at step {step}")
    mean = sum(one.reward for one in drawn) / len(drawn)
    head = f"step {step}: {min(n, len(drawn))} of {len(drawn)} completions, mean reward {mean:.3f}"
    console.show([asdict(one) for one in drawn[:n]], as_json, lines=[head])
    if as_json:
        return
    for one, pieces in zip(drawn, shades(run, drawn[:n]), strict=False):
        advantage = sum(one.advantages) / max(1, len(one.advantages))
        line = (
            f"{one.problem_id} sample {one.sample}: {one.verdict}, reward {one.reward:g}, "
            f"advantage {advantage:+.2f}, log-prob {one.logprob:.1f}"
        )
        print(f"\n{console.escape(line, newlines=False)}")
        console.print_shaded(pieces)


verbs.add_typer(data, name="data")


@verbs.command()
def plan(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    only: Annotated[str, Option("--arm", metavar="NAME", help="this arm alone, with every figure")] = "",
    on: Annotated[
        str,
        Option(
            metavar="DEVICE",
            help="here, cpu, h100, h200, a100, l40s or rtx4090; default: here, but h100 for a large model "
            "without a GPU",
        ),
    ] = "",
    gpus: Annotated[
        int,
        Option(min=1, max=1024, help="how many, or processes of torchrun on a CPU; also shows 1, 2, 4, ..."),
    ] = 1,
    measure: Annotated[
        bool, Option("--measure", help="time a few real steps instead of assuming the speed")
    ] = False,
    rate: Annotated[float, Option(min=0, help="price of a device for an hour, in any currency")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Parameters, steps, memory, time and cost of every arm of a study, without weights or network."""
    from reckoner import console
    from reckoner.devices import measure as measure_device
    from reckoner.plan import plan_counts

    config = read_config(preset, files, settings)
    measured = measure_device(config, on) if measure else None
    refused: list[str] = []
    by_count = plan_counts(
        config,
        only,
        gpus,
        lambda name, why: refused.append(f"arm {name} would be refused: {why}"),
        on=on,
        measured=measured,
        rate_per_hour=rate or None,
    )
    plans = by_count[gpus]
    lines = dict.fromkeys(f"assumed: {line}" for one in plans for line in one.assumptions)
    head = f"{plans[0].model}, {plans[0].parameters:,} parameters, {plans[0].precision}"
    if len(plans) > 1 and not as_json:
        print(console.escape(head, newlines=False) + "\n")
    ahead: list[str] = []
    if config.study.arms and not as_json:
        from reckoner.cli.train import study_outlook
        from reckoner.study.arms import plan_study
        from reckoner.tasks.gsm8k import problem_counts

        ahead = study_outlook(config, plan_study(config), problem_counts(**config.problem_source())[1])
    last = [*(lines if len(plans) > 1 else []), *refused, too_large(plans), *ahead]
    tables = _plan_tables(by_count, gpus)
    console.show([one.to_dict() for one in plans], as_json, tables, filter(None, last))


def _plan_tables(by_count: dict[int, list[Plan]], gpus: int) -> Iterator[Grid]:
    """A table for one plan; for several, a table each of the arms, of their memory and of their phases."""
    plans = by_count[gpus]
    if len(plans) == 1:
        yield ["plan", "value"], _plan_rows(plans[0])
    else:
        yield _arm_table(plans)
        yield _breakdown("memory of", plans, [one.memory.to_dict() for one in plans], _size)
        phases = [{**one.phases, "total": one.total_seconds} for one in plans]
        yield _breakdown("time of", plans, phases, _duration)
    if gpus > 1:
        columns = [
            [f"{_size(one.memory.total)}, {_duration(one.total_seconds)}" for one in each]
            for each in by_count.values()
        ]
        rows = [[one.name, *cells] for one, *cells in zip(plans, *columns, strict=True)]
        yield ["on GPUs or processes", *map(str, by_count)], rows


def _breakdown(
    title: str, plans: list[Plan], values: Sequence[Mapping[str, Any]], show: Callable[[float], str]
) -> Grid:
    """One line an arm, one column a component of its total that is above 0 in any arm."""
    names = [n for n in dict.fromkeys(key for value in values for key in value) if n != "total"]
    names = [name for name in names if any(value.get(name) for value in values)] + ["total"]
    cells = [[show(value[n]) if value.get(n) else "" for n in names] for value in values]
    return [title, *names], [[one.name, *row] for one, row in zip(plans, cells, strict=True)]


def _plan_rows(one: Plan) -> list[list[str]]:
    """Label and value of each line of one printed plan."""
    sizes = one.memory.to_dict().items()
    memory = ", ".join(f"{name} {_size(value)}" for name, value in sizes if value and name != "total")
    phases = ", ".join(f"{phase} {_duration(value)}" for phase, value in one.phases.items())
    share = one.trainable / (one.parameters + one.adapter)
    rows = [
        ["model", one.model],
        ["method", one.method],
        ["parameters", f"{one.parameters:,}"],
        ["trainable parameters", f"{one.trainable:,} ({100 * share:.4g} %)"],
        ["precision", one.precision],
        ["problems", f"{one.problems:,}"],
        ["a step", one.batch],
        ["steps", f"{one.steps:,} ({one.epochs:.3g} epochs, {one.updates:,} optimizer updates)"],
        ["tokens", f"about {one.tokens:,}, of which {one.supervised_tokens:,} supervised"],
        ["operations", f"{one.flops:.3g}, evaluation included"],
        ["memory", f"about {_size(one.memory.total)}: {memory}"],
        ["time", f"about {_duration(one.total_seconds)}: {phases}"],
        *([["cost", f"about {one.cost:,.2f}"]] if one.cost is not None else []),
    ]
    return [*rows, *(["assumed", line] for line in one.assumptions)]


def _arm_table(plans: list[Plan]) -> Grid:
    """One line an arm: what trains, its batches, memory, time, and the cost where a price was given."""
    headers = ["arm", "method", "trainable", "a step", "steps", "epochs", "memory", "time", "cost"]
    rows = [
        [
            one.name,
            one.method,
            *(
                [f"{one.trainable:,}", one.batch, f"{one.steps:,}", f"{one.epochs:.3g}"]
                if one.steps
                else [""] * 4
            ),
            _size(one.memory.total),
            _duration(one.total_seconds),
            *([f"{one.cost:,.2f}"] if one.cost is not None else []),
        ]
        for one in plans
    ]
    return headers[: len(rows[0])], rows


def too_large(plans: list[Plan]) -> str:
    """A line that names the arms that do not fit, and what makes them smaller; empty where all fit."""
    wrong = [
        f"{one.name} ({_size(one.memory.total)} of {_size(one.available)})"
        for one in plans
        if one.memory.total > one.available
    ]
    ways = (
        "a smaller train.per_device_train_batch_size, model.gradient_checkpointing=true, "
        "train.optim=adamw_8bit, "
        "peft.method=lora, ppo.critic=head"
    )
    return f"does not fit: {', '.join(wrong)}. What makes it smaller: {ways}" if wrong else ""


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@verbs.command()
def verify(
    run: Annotated[Path, Argument(metavar="RUN", help="a finished run, or a study with its finished arms")],
    as_json: AsJson = False,
) -> None:
    """Check the files, data and base model of a finished run against the hashes noted at its end."""
    from reckoner import console
    from reckoner.verify import verify as check

    with console.progress(after=console.SOON) as shown:
        runs = check(run, shown.callback("verify"))
    rows = [
        ["changed" if one.faults else "as it was", one.run, sum(one.files.values()), one.manifest]
        for one in runs
    ]
    lines = [
        "Compared: each file of the run by size and sha256, and the data files, tokenizer and base model "
        "with "
        "inputs.json.",
        "Who can write there can write the manifest too: its sha256, noted elsewhere, pins the run.",
        *(f"{one.run}: not checked: {what}" for one in runs for what in one.unchecked),
    ]
    table = ["state", "run", "files", "sha256 of its manifest"], rows
    console.show([asdict(one) for one in runs], as_json, [table], lines)
    if faults := [fault.replace("\n", " ") for one in runs for fault in one.faults]:
        raise InputError("\n".join(faults))


@verbs.command()
def doctor(
    model: Annotated[
        str,
        typer.Argument(
            metavar="[MODEL]", help="a run, a model folder, a GGUF file, a Hub id, 'nano' or 'smollm2-135m'"
        ),
    ] = "",
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    as_json: AsJson = False,
) -> None:
    """What a model is, whether it is sound, what to set; without MODEL the environment for a bug report."""
    if model:
        _examine(config_of(model, settings, preset, files), as_json)
        return
    import torch

    from reckoner import console
    from reckoner.config import preset_names
    from reckoner.machine import environment
    from reckoner.models.sources import verified_embedded

    verified_embedded()
    facts = environment()
    facts["threads"] = torch.get_num_threads()
    facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["embedded_model"] = "verified"
    facts["presets"] = preset_names()
    rows = [(name, value) for name, value in facts.items() if not isinstance(value, dict | list)]
    rows += [(f"version of {name}", version) for name, version in facts["versions"].items()]
    rows += [(name, ", ".join(facts[name]) or "none") for name in ("gpus", "presets")]
    console.show(facts, as_json, [(["environment", "value"], rows)])


def _examine(config: Config, as_json: bool) -> None:
    """Print what is known of a model. Raises `InputError` with its faults, after everything is printed."""
    from reckoner import console
    from reckoner.doctor import examine

    use_threads(config)
    found, columns = examine(config), ["verdict", "gold", "tokens", "question", "answer"]
    tables: list[Grid] = [
        (["model", "value"], [[k, f"{v:,}" if isinstance(v, int) else v] for k, v in found.facts.items()]),
        (["state", "check", "finding"], [[one.state, one.check, one.says] for one in found.findings]),
    ]
    if found.answers:
        answers = [[str(one[name]) for name in columns] for one in found.answers]
        costs = [[one.name, _size(one.memory.total), _duration(one.total_seconds)] for one in found.plans]
        tables += [
            (["example", "as the model sees it"], [["prompt", found.prompt], ["to learn", found.completion]]),
            (columns, answers),
            (["to come", "memory", "time"], costs),
        ]
    document = {**asdict(found), "plans": [one.to_dict() for one in found.plans]}
    console.show(document, as_json, tables, [*found.advice, *filter(None, [too_large(list(found.plans))])])
    if faults := [one.says for one in found.findings if one.state == "fault"]:
        raise InputError("\n".join(faults))
