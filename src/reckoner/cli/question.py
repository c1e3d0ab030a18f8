"""Verbs that question a result: passk, audit, pack, replay. None of them needs torch but `replay --train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from reckoner.cli.options import AsJson, Decimal, Gold, Split
from reckoner.errors import InputError

verbs = typer.Typer()


@verbs.command()
def passk(
    start: Annotated[Path, Argument(metavar="START", help="run or completions, several samples a problem")],
    end: Annotated[Path, Argument(metavar="END", help="the same problems after RL, as many samples")],
    k: Annotated[int, Option("-k", min=0, help="largest k; 0: all samples")] = 0,
    gold: Gold = None,
    decimal: Decimal = "auto",
    split: Split = "",
    as_json: AsJson = False,
) -> None:
    """Say whether RL sharpened or expanded: pass@k and maj@k before and after, and where they cross."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis.difficulty import difficulty_table
    from reckoner.analysis.reach import reach, reach_sentences, reach_table
    from reckoner.analysis.readers import read_completion_sets

    before, after = read_completion_sets([start, end], gold, split, decimal)
    found = reach([before], [after], k)
    tables = [reach_table(found), difficulty_table(found.end.name, found.bands)]
    console.show(asdict(found), as_json, tables, reach_sentences([found]))


@verbs.command()
def audit(
    run: Annotated[Path, Argument(metavar="RUN", help="run of the policy that RL would start from")],
    settings: Annotated[
        list[str] | None,
        Argument(
            metavar="section.key=value", help="rollout.reward, rollout.reward_weights; default: the run's"
        ),
    ] = None,
    split: Split = "dev",
    as_json: AsJson = False,
) -> None:
    """Ask what a reward really pays for, before RL: independent graders, checked steps, and baits."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis.audit import audit as judge
    from reckoner.analysis.audit import bait_table, judge_table
    from reckoner.analysis.readers import read_completion_set
    from reckoner.cli.options import config_of
    from reckoner.config import load_config
    from reckoner.tasks.reward_plugin import PluginReward, refuse_unnamed
    from reckoner.tasks.rewards import SOURCES, check_weights, group_reward

    rollout = config_of(str(run), settings, "", None).rollout
    typed = {load_config(overrides=settings or ()).rollout.reward}
    refuse_unnamed([rollout.reward], typed - SOURCES.keys(), run / "config.yaml", "rollout.reward=")
    weights, name = check_weights(rollout.reward_weights), rollout.reward
    pay = (
        group_reward(name, weights)
        if name in SOURCES
        else PluginReward(name, weights, rollout.reward_timeout)
    )
    found = judge(pay, read_completion_set(run, split=split))
    head = f"reward {name}: paid from {found.threshold:g} on, {found.completions:,} completions of {split}"
    console.show(asdict(found), as_json, [judge_table(found), bait_table(found)], [head])
    if found.faults:
        raise InputError("\n".join(found.faults))


@verbs.command()
def pack(
    runs: Annotated[list[Path], Argument(metavar="RUN_OR_STUDY...", help="finished runs, or studies")],
    output: Annotated[Path, Option(metavar="FILE", help="the archive to write")] = Path("capsule.zip"),
    weights: Annotated[bool, Option("--weights", help="put the weights in too")] = False,
) -> None:
    """Put runs or a study into one archive, from which `reckon replay` derives every number again."""
    from reckoner import console
    from reckoner.runs.capsule import pack as write
    from reckoner.runs.safe_paths import check_output

    check_output(output)
    files = write(runs, output, weights)["files"]
    size = sum(one["size"] for one in files.values())
    print(console.escape(f"{output}: {len(files):,} files, {size / 1e6:,.1f} MB unpacked"))


@verbs.command()
def replay(
    file: Annotated[Path, Argument(metavar="FILE", help="archive that `reckon pack` wrote")],
    train: Annotated[
        bool, Option("--train", help="train again too, and compare weights and completions bit for bit")
    ] = False,
    rewards: Annotated[
        list[str] | None,
        Option(
            "--reward",
            metavar="package.module:function",
            help="with --train: a reward function of the archive that you trust and have installed; "
            "repeatable",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Derive every number of a packed report again from its completions, and name what differs."""
    from dataclasses import asdict

    from reckoner import console
    from reckoner.analysis.replay import replay as derive
    from reckoner.runs.capsule import unpacked

    if rewards and not train:
        raise InputError("--reward is for --train: nothing is paid without training")
    with unpacked(file) as (root, index):
        found = [one for name in index["folders"] for one in derive(root / name)]
        faults = [f"{one.name}: {fault}" for one in found for fault in one.faults]
        if train:
            from reckoner.errors import require

            require("torch", "replay --train")
            from reckoner.study.retrain import check_rewards, retrain

            check_rewards([root / name for name in index["folders"]], rewards or ())
            with console.progress() as shown:
                for name in index["folders"]:
                    faults += retrain(root / name, root / "again", shown.callback)
    rows = [["differs" if one.faults else "as it was", one.name, f"{one.numbers:,}"] for one in found]
    lines = [f"{one.name}: not compared are {what}." for one in found for what in one.unchecked]
    lines += ["Weights and completions were made again and compared."] if train else []
    console.show(
        [asdict(one) for one in found], as_json, [(["state", "of", "numbers derived again"], rows)], lines
    )
    if faults:
        raise InputError("\n".join(faults))
