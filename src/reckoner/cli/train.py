"""Verbs that train and run studies: study, and one for each method of the registry."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from copy import deepcopy
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from reckoner import ranks
from reckoner.algorithms import ALGORITHMS, Algorithm
from reckoner.cli.options import (
    AsJson,
    DryRun,
    Files,
    Preset,
    Settings,
    arm_names,
    names_data,
    read_config,
    use_threads,
)
from reckoner.errors import InputError

if TYPE_CHECKING:
    from reckoner.config import Config
    from reckoner.plan import Plan
    from reckoner.runs.documents import TuneRecord
    from reckoner.study.arms import ArmRun
    from reckoner.study.runner import Runner

verbs = typer.Typer()

Arms = Annotated[
    list[str] | None,
    Option(
        "--arm",
        metavar="NAME",
        help="this arm and what it starts from; repeatable",
        autocompletion=arm_names,
    ),
]
Extend = Annotated[
    bool, Option("--extend", help="let a run go on to more epochs or steps than it began with")
]
Init = Annotated[str, Option(metavar="RUN", help="run to start from, with its data and prompt; or any model")]


@verbs.command()
def study(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    only: Arms = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run every arm of a study that is not finished yet, then write the report."""
    from reckoner.errors import require
    from reckoner.runs.safe_paths import check_name
    from reckoner.study.arms import choose, plan_study, shadowed

    if ranks.size() > 1:
        raise InputError("reckon study starts its own processes: give it without torchrun")
    if not dry_run:
        require("torch", "study")
    config = read_config(preset, files, settings)
    shadowed(config, settings or [])
    config.run.output_dir = (
        config.run.output_dir or f"runs/{check_name(config.study.name or config.preset or 'study')}"
    )
    arms = plan_study(config)
    chosen = choose(arms, only or ())
    _announce(config, chosen)
    if dry_run:
        print(config.to_yaml(), end="")
        return
    if config.study.tune:
        arms = plan_study(_searched(config, chosen))
        chosen = choose(arms, only or ())
    from reckoner.study.runner import runner

    with runner(config, chosen) as workers:  # they import torch while this process prepares
        from reckoner import console
        from reckoner.study.run import run_study, shortfall

        use_threads(config)
        _estimate(config, workers, chosen)
        with console.progress() as shown:
            counted = shown.of_arms(config.study.name or "study", len(chosen))
            folder = run_study(config, arms, chosen, f"reckon {shlex.join(sys.argv[1:])}", counted, workers)
    _conclude(folder, as_json)
    if error := shortfall(chosen):
        raise error


@verbs.command()
def tune(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    only: Annotated[
        list[str] | None,
        Option("--arm", metavar="NAME", help="this arm alone; repeatable", autocompletion=arm_names),
    ] = None,
    trials: Annotated[int, Option(min=1, max=1000, metavar="N", help="trials of each arm")] = 8,
    as_json: AsJson = False,
) -> None:
    """Search the learning rate of each trained arm with equally many trials, on dev; resumable."""
    from reckoner import console
    from reckoner.runs.safe_paths import check_name
    from reckoner.study.arms import shadowed

    if ranks.size() > 1:
        raise InputError("reckon tune starts its own processes: give it without torchrun")
    config = read_config(preset, files, settings)
    shadowed(config, settings or [])
    name = check_name(config.study.name or config.preset or "study")
    config.run.output_dir = config.run.output_dir or f"runs/{name}"
    record = _search(config, trials, only or ())
    rows = [
        [name, f"{one['learning_rate']:.3g}", f"{100 * one['dev']:.1f} %", len(one["tried"])]
        for name, one in record["arms"].items()
    ]
    headers = ["arm", "best learning rate", "dev, best of all trials", "trials"]
    console.show(record, as_json, [(headers, rows)])


def _searched(config: Config, chosen: Sequence[ArmRun]) -> Config:
    """The configuration with the rates that the search finds for the chosen arms.

    The study's folder keeps the configuration as it was given, so that other arms may be searched later. It
    is opened first: one that holds another study is refused before any trial.
    """
    from reckoner.runs.folder import Run

    Run.open(config).close()
    tuned = deepcopy(config)
    names = dict.fromkeys(arm.name for arm in chosen if arm.method in ALGORITHMS)
    if own := [name for name in names if name in config.study.arms]:
        _search(tuned, config.study.tune, own)
    return tuned


def _search(config: Config, trials: int, only: Sequence[str]) -> TuneRecord:
    """Search what is not searched yet, give the arms of `config` their rates, and say how equal it was."""
    from reckoner import console
    from reckoner.errors import require

    require("torch", "tune")
    require("optuna", "tune")
    from reckoner.analysis.limits import search_sentence
    from reckoner.study.tune import apply_record
    from reckoner.study.tune import tune as search

    use_threads(config)
    with console.progress() as shown:
        record = search(config, trials, only, shown.callback)
    tried = apply_record(config, record)
    equal = f"the rate of each arm is the best of {max(tried.values())} trials on dev"
    print(search_sentence(tried) or equal, file=sys.stderr)
    return record


def _register(algorithm: Algorithm) -> None:
    """Make the verb of one training method."""

    def verb(
        init: Init = "",
        settings: Settings = None,
        preset: Preset = "",
        files: Files = None,
        extend: Extend = False,
        dry_run: DryRun = False,
        as_json: AsJson = False,
    ) -> None:
        config = _method_config(algorithm.name, init, settings or [], preset, files or [])
        config.run.output_dir = config.run.output_dir or f"runs/{_run_name(algorithm.name, config)}"
        if dry_run:
            print(config.to_yaml(), end="")
            return
        from reckoner import console
        from reckoner.tracking import reporting

        _prepare(algorithm.name, config, extend)
        output = Path(config.run.output_dir)
        with reporting(output, config.run.report_to), console.progress() as shown:
            summary = algorithm.train(config, shown.callback(output.name))
        _show_training(config, summary, as_json)

    verbs.command(algorithm.name, help=algorithm.help)(verb)


for _algorithm in ALGORITHMS.values():
    _register(_algorithm)


def _prepare(method: str, config: Config, extend: bool) -> None:
    """Say what is about to run, and let a run be extended."""
    from reckoner.runs import folder as runs
    from reckoner.runs.integrity import read_summary

    finished = read_summary(Path(config.run.output_dir)).get("status") == "finished" and not extend
    use_threads(config, "" if finished else method)
    if extend:
        runs.extend(config)
    elif finished:
        print(f"{config.run.output_dir} is finished already; nothing is trained", file=sys.stderr)


def _method_config(
    method: str, init: str, settings: Sequence[str], preset: str, files: Sequence[Path]
) -> Config:
    """The preset with its first arm of this method on top (its learning rate), or of the method that it is
    like, then the data and prompt of the run to start from, files, settings.
    """
    from reckoner.config import load_config
    from reckoner.config.secrets import refuse_secret
    from reckoner.runs.folder import read_config as read_saved
    from reckoner.runs.integrity import check_finished

    init = expanduser(init)
    saved, path = {}, Path(init) / "config.yaml"
    if init and path.is_file():
        check_finished(Path(init), "config.yaml")
        saved = read_saved(path)
    given = read_config(preset or saved.get("preset", ""), files, settings, init)
    methods = (method, ALGORITHMS[method].like)
    arms = (arm.set for name in methods for arm in given.study.arms.values() if arm.method == name)
    fitting = (arm for arm in arms if arm.get("peft", {}).get("method", "none") == given.peft.method)
    layers: list[dict[str, Any]] = [
        next(fitting, {}),
        {section: saved[section] for section in ("model", "data", "prompt", "eval") if section in saved},
    ]
    config = load_config(given.preset, files, settings, between=layers)
    if init:
        config.data.local_files_only |= bool(saved) and not names_data(files, settings)
        config.model.model_name_or_path, config.model.revision = refuse_secret("--init", init), ""
    return config


def _show_training(config: Config, summary: dict[str, Any], as_json: bool) -> None:
    from reckoner import console

    if as_json:
        console.print_json(summary)
        return
    training = summary["training"]
    rows = [[name, f"{value:,}" if isinstance(value, int) else value] for name, value in training.items()]
    console.table(["training", "value"], rows)
    print(f"saved: {config.run.output_dir}/model. Next: reckon eval {config.run.output_dir} eval.split=test")


def _run_name(method: str, config: Config) -> str:
    """Method, adapter, what it starts from and what it learns, such as `sft-lora-nano-main`."""
    from reckoner.runs.safe_paths import as_name

    adapter = "" if config.peft.method == "none" else f"-{config.peft.method}"
    start = as_name(Path(config.model.model_name_or_path).name)
    return f"{method}{adapter}-{start}-{config.data.variant}"[:64]


def _announce(config: Config, arms: Sequence[ArmRun]) -> None:
    """What will run, on what, and where it will be written."""
    from reckoner.console import escape
    from reckoner.tasks import gsm8k

    name, count = config.study.name or config.preset, len({arm.name for arm in arms})
    lines = [f"study {name}: {count} arms, {len(arms)} runs, into {config.run.output_dir}"]
    lines += [f"model {config.model.model_name_or_path}"]
    files = gsm8k.files(**config.problem_source())
    lines += [
        f"problems {file['path']}: {file['rows']:,} rows, sha256 {file['sha256'][:12]}" for file in files
    ]
    lines += [
        f"  {arm.label}: {arm.method}{f' from {arm.after}' if arm.after else ''}"
        f"{f', a control of {arm.control_of}' if arm.control_of else ''}"
        for arm in arms
    ]
    lines += study_outlook(config, arms, sum(file["rows"] for file in files if file["split"] == "test"))
    print("\n".join(escape(line, newlines=False) for line in lines), file=sys.stderr)


def study_outlook(config: Config, runs: Sequence[ArmRun], tests: int) -> list[str]:
    """What the study will be able to say on `tests` problems; nothing where it declares no pair."""
    from reckoner.analysis.foresight import Design, outlook
    from reckoner.study.arms import PAID, declared_pairs, seeds_of, with_controls

    here = {run.name: run for run in runs}
    declared = [(a, b) for a, b in declared_pairs(config, runs) if {a, b} <= {*here, "best-prompt"}]
    if not declared or not tests:
        return []
    controls = {run.control_of for run in runs if run.control_of}
    learned = {name for name, run in here.items() if run.method in PAID and not run.control_of}
    others = {name: arm for name, arm in with_controls(config).items() if name not in here}
    left_out = {"controls" for arm in others.values() if arm.control_of in learned}
    left_out |= {"prompts" for arm in others.values() if arm.method == "prompt" and not arm.init}
    design = Design(
        n=min(tests, config.data.max_test_samples or tests),
        seeds=len(seeds_of(config)),
        pairs=tuple(declared),
        trained=frozenset(name for name, run in here.items() if run.method != "prompt"),
        rewarded=frozenset(learned),
        controlled=frozenset(controls),
        prompts=sum(run.method == "prompt" and not run.after for run in here.values()),
        discordance=config.study.discordance,
        seed_std=config.study.seed_std,
        left_out=frozenset(left_out),
    )
    titles = {name: run.title for name, run in here.items()}
    return outlook(design, {**titles, "best-prompt": "best prompt"})


def _estimate(config: Config, workers: Runner, arms: Sequence[ArmRun]) -> None:
    """How many arms run at once, and how long they will take on this machine, before any begins; nothing for
    a cluster. A model of unknown shape costs the estimate, not the study.
    """
    from reckoner.console import clock
    from reckoner.machine import say_once
    from reckoner.models.families import UnknownShape

    jobs, threads = workers.count, workers.threads
    if not jobs:
        return
    if jobs > 1:
        print(f"{jobs} arms at once, {threads} thread{'' if threads == 1 else 's'} for each", file=sys.stderr)
    try:
        plans = _planned(config, arms, threads)
    except UnknownShape as error:
        say_once(f"no estimate of time and memory: {error}")
        return
    if plans:
        total, learnt = (
            sum(seconds) / min(jobs, len(plans))
            for seconds in ([p.total_seconds for p in plans], [p.phases.get("update", 0) for p in plans])
        )
        print(
            f"about {clock(total)} in all, {clock(learnt)} of it updates; {plans[0].precision}; "
            f"{plans[0].assumptions[-1]}",
            file=sys.stderr,
        )


def _planned(config: Config, arms: Sequence[ArmRun], threads: int) -> list[Plan]:
    """The plan of each run on `threads` of this machine. Raises `UnknownShape`."""
    from reckoner.devices import HERE
    from reckoner.models.families import UnknownShape
    from reckoner.plan import plan
    from reckoner.runs.documents import SEARCHED

    found: dict[str, Plan] = {}
    for arm in {arm.name: arm for arm in arms}.values():
        own = deepcopy(arm.config)
        own.run.threads = threads
        if arm.after:
            own.model.model_name_or_path = config.model.model_name_or_path
        if arm.spends_as in found:
            own.train.max_tflops = found[arm.spends_as].training_flops / 1e12
        try:
            searched = config.study.prompt_search * (arm.name == SEARCHED)
            found[arm.name] = plan(own, arm.method, arm.name, HERE, searched=searched)
        except UnknownShape:
            raise
        except InputError:
            continue  # the study refuses this arm with the reason
    return [found[arm.name] for arm in arms if arm.name in found]


def _conclude(folder: Path, as_json: bool) -> None:
    from reckoner.analysis.report import build_report
    from reckoner.cli.publish import show_study

    show_study(build_report(folder), as_json)
