"""The arms of a study and their runs: what they are, in which order they can run, which are compared.

An arm that trains, or starts from one that does, has a run for each seed of the study. A run starts from the
run of its seed. With one seed the run's folder is that of its arm, with several `ARM/seed-N`. Torch-free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from operator import ne
from pathlib import Path
from typing import Any

from reckoner.algorithms import ALGORITHMS
from reckoner.config import ArmConfig, Config, StudyConfig, build_config
from reckoner.config.layers import dotted, nearest
from reckoner.config.load import typed_settings
from reckoner.errors import InputError
from reckoner.runs.documents import SEARCHED
from reckoner.runs.integrity import read_summary
from reckoner.runs.safe_paths import check_name

BEST_PROMPT = "best-prompt"
"""Stands in a pair for the prompting arm that solved most of dev."""


@dataclass
class ArmRun:
    """One run of an arm with its configuration. `after` is the arm it starts from.

    `state`: waiting, done, or (with a reason) refused or failed. `bars` make it a trial of a search (see
    `tune`), which has no test: it ends as pruned where its best dev score is below a bar, one an evaluation.
    """

    name: str
    title: str
    method: str
    after: str
    config: Config
    control_of: str = ""
    seed: int = 0
    seeds: int = 1
    state: str = "waiting"
    reason: str = ""
    bars: list[float] | None = None

    @property
    def label(self) -> str:
        """The folder of the run in that of the study."""
        return run_label(self.name, self.seed, self.seeds)

    @property
    def spends_as(self) -> str:
        """The arm whose measured operations are the budget of this one; empty where it has none."""
        return "" if self.method in PAID else self.control_of

    @property
    def needs(self) -> tuple[str, ...]:
        """Labels of the runs that must be done before this one."""
        names = filter(None, (self.after, self.spends_as))
        return tuple(run_label(name, self.seed, self.seeds) for name in names)


PAID = frozenset(name for name, algorithm in ALGORITHMS.items() if algorithm.rewarded) - {"rejection"}
"""Methods of reinforcement learning: a reward weighs what the policy drew."""
_METHODS = ", ".join(sorted(PAID))


def run_label(name: str, seed: int, seeds: int) -> str:
    return f"{name}/seed-{seed}" if seeds > 1 else name


def arm_records(runs: Sequence[ArmRun]) -> list[dict[str, Any]]:
    """The arms as study.json holds them, each with its runs where it has several.

    An arm is done once one of its runs is and none waits; its reason names the runs that are missing.
    """
    records = []
    for name in dict.fromkeys(run.name for run in runs):
        own = [run for run in runs if run.name == name]
        first, states = own[0], [run.state for run in own]
        missing = [run for run in own if run.state in ("refused", "failed")]
        state = next((one for one in ("waiting", "done", *states) if one in states), "")
        reasons = [f"seed {run.seed} {run.state}: {run.reason}" for run in missing]
        records.append(
            {
                "name": name,
                "title": first.title,
                "method": first.method,
                "rewarded": first.method in PAID,
                "folder": name,
                "after": [first.after] if first.after else [],
                "control_of": first.control_of,
                "state": state,
                "reason": "; ".join(reasons) if len(own) > 1 else first.reason,
                "runs": [
                    {"seed": run.seed, "folder": run.label, "state": run.state, "reason": run.reason}
                    for run in own
                ],
            }
        )
    return records


def tests(arm: ArmRun) -> list[dict[str, Any]]:
    """The evaluations of this run on test: none before it is finished."""
    summary = read_summary(Path(arm.config.run.output_dir))
    return [entry for entry in summary.get("evaluations", []) if entry["split"] == "test"]


def samples_split(study: StudyConfig) -> str:
    """The name of the samples of `study.pass_k` among the evaluations of a run; empty without them."""
    return f"samples-{study.pass_k_problems or 'all'}x{study.pass_k}" if study.pass_k else ""


def seeds_of(config: Config) -> list[int]:
    """The seeds of the study. Raises `InputError` for none, or for one that stands there twice."""
    given = config.study.seeds
    seeds = given if isinstance(given, list) else list(range(config.run.seed, config.run.seed + given))
    if not seeds or min(seeds) < 0:
        raise InputError(f"study.seeds={given}: give a number of runs, as 3, or seeds, as [0, 1, 2]")
    if repeated := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise InputError(f"study.seeds={given}: seed {repeated[0]} is there twice, and would be the same run")
    return seeds


def plan_study(config: Config) -> list[ArmRun]:
    """All runs in an order that respects their dependencies.

    Raises `InputError` for a study without arms, an unknown arm, a cycle, bad seeds or bad controls.
    """
    arms = with_controls(config)
    if not arms:
        raise InputError("the study has no arms: give --preset nano, or study.arms.NAME.method=... in a file")
    ordered: list[str] = []
    for name in arms:
        _visit(check_name(name), arms, ordered, ())
    root, seeds = Path(config.run.output_dir), seeds_of(config)
    runs = [
        _run(config, root, name, arms[name], seed, len(own))
        for name in ordered
        for own in [seeds if _trains(name, arms) else seeds[:1]]
        for seed in own
    ]
    if config.study.pass_k:
        _draw_samples(config.study, runs)
    return runs


def _draw_samples(study: StudyConfig, runs: Sequence[ArmRun]) -> None:
    """Let each arm of reinforcement learning, and what it starts from, draw the samples of `study.pass_k`.

    The untrained model's are drawn by the prompting arm with the same prompt. Raises `InputError` without a
    second sample, without such an arm, or without its start.
    """
    learned = [run for run in runs if run.method in PAID and not run.control_of]
    wrong = "one sample has no pass@k" if study.pass_k < 2 else ""
    if not learned:
        wrong = f"no arm is reinforcement learning ({_METHODS})"
    if wrong:
        raise InputError(f"study.pass_k={study.pass_k}, but {wrong}. Leave it out, or give 32")
    for end in learned:
        starts = [run for run in runs if run.name == end.after] if end.after else _asked_alike(end, runs)
        if not starts:
            raise InputError(
                f"study.pass_k: {end.name} starts from the untrained model, and no prompting arm has its "
                "prompt. Add one with the same settings of prompt"
            )
        for run in (end, *starts):
            run.config.study.pass_k, run.config.study.pass_k_problems = study.pass_k, study.pass_k_problems


def _asked_alike(end: ArmRun, runs: Sequence[ArmRun]) -> list[ArmRun]:
    """The first arm that asks the untrained model with the prompt of `end`; the searched one has none yet."""
    alike = (run for run in runs if run.method == "prompt" and not run.after and run.name != SEARCHED)
    return [run for run in alike if run.config.prompt == end.config.prompt][:1]


def _trains(name: str, arms: dict[str, ArmConfig]) -> bool:
    return arms[name].method != "prompt" or bool(arms[name].init and _trains(arms[name].init, arms))


def choose(arms: Sequence[ArmRun], only: Sequence[str]) -> list[ArmRun]:
    """The runs of the arms named in `only` and of what they need, in order; all when `only` is empty."""
    by_name = {arm.name: arm for arm in arms}
    wanted: set[str] = set()
    names = list(only or by_name)
    while names:
        name = names.pop()
        _known(name, by_name, "--arm")
        wanted.add(name)
        names += filter(None, (by_name[name].after, by_name[name].spends_as))
    return [arm for arm in arms if arm.name in wanted]


def declared_pairs(config: Config, runs: Sequence[ArmRun]) -> list[list[str]]:
    """The family of comparisons: `study.pairs`, or each trained arm with the best prompt and with each that
    differs from it in one factor, and each arm with its start: reinforcement learning from the untrained
    model with its own prompt. Controls are a family of their own (`analysis.controls`).
    """
    arms = list({run.name: run for run in runs}.values())
    if config.study.pairs:
        pairs = [pair.split(":") for pair in config.study.pairs]
        for pair in pairs:
            if len(pair) != 2:
                raise InputError(f"study.pairs: {':'.join(pair)} is not 'a:b'")
            for name in pair:
                if name != BEST_PROMPT:
                    _known(name, {arm.name: arm for arm in arms}, "study.pairs")
        return pairs
    trained = [arm for arm in arms if arm.method != "prompt" and not arm.control_of]
    siblings = [
        [b.name, a.name] for a, b in combinations(trained, 2) if sum(map(ne, _factors(a), _factors(b))) == 1
    ]
    starts = [[arm.name, arm.after] for arm in arms if arm.after and not arm.control_of]
    untrained = [arm for arm in trained if arm.method in PAID and not arm.after]
    starts += [[arm.name, asked.name] for arm in untrained for asked in _asked_alike(arm, arms)]
    return [[arm.name, BEST_PROMPT] for arm in trained] + starts + siblings


def _factors(arm: ArmRun) -> tuple[str, ...]:
    """Method, adapter, data variant and start of an arm."""
    return arm.method, arm.config.peft.method, arm.config.data.variant, arm.after


def _known(name: str, arms: dict[str, Any], where: str) -> None:
    if name not in arms:
        hint = nearest(name, arms.keys()) or f" (arms: {', '.join(arms)})"
        raise InputError(f"{where}: there is no arm {name}{hint}")


def _run(config: Config, root: Path, name: str, arm: ArmConfig, seed: int, seeds: int) -> ArmRun:
    """The study's configuration with the arm's own settings on top, in a folder of its own."""
    own_study = StudyConfig(suites=config.study.suites, forgetting=config.study.forgetting)
    base = {**config.to_dict(), "study": asdict(own_study)}
    own = build_config(
        [(base, {}), (arm.set, {key: f"study.arms.{name}.set" for key in dotted(arm.set)})], config.preset
    )
    own.run.output_dir = str(root / run_label(name, seed, seeds))
    if seeds > 1 or config.study.seeds != 1:
        own.run.seed = seed
    if arm.init:
        own.model.model_name_or_path = str(root / run_label(arm.init, seed, seeds))
    return ArmRun(name, arm.title or name, arm.method, arm.init, own, arm.control_of, seed, seeds)


def shadowed(config: Config, overrides: Sequence[str]) -> None:
    """Refuse a command-line setting that every arm replaces by its own value, since it would do nothing."""
    for key, value in typed_settings(overrides).items():
        owners = [name for name, arm in config.study.arms.items() if key in dotted(arm.set)]
        if owners and not isinstance(value, dict):
            raise InputError(
                f"{key} is set by the arms themselves ({', '.join(owners)}). "
                f"Write study.arms.{owners[0]}.set.{key}=..."
            )


def with_controls(config: Config) -> dict[str, ArmConfig]:
    """The arms of the study, and where it asks for them the searched prompt and controls.

    Raises `InputError` for a control of what is no reinforcement learning, or where there is none.
    """
    arms = dict(config.study.arms)
    if config.study.prompt_search and arms:
        arms = {SEARCHED: ArmConfig(f"best of {config.study.prompt_search} searched prompts"), **arms}
    if config.study.controls:
        learned = [name for name, arm in arms.items() if arm.method in PAID and not arm.control_of]
        if not learned:
            raise InputError(
                f"study.controls=true, but no arm is reinforcement learning ({_METHODS}). Leave it out"
            )
        for name in learned:
            arms |= _controls(config, name, arms[name])
    for name, arm in arms.items():
        if (of := arms.get(arm.control_of)) and of.method not in PAID:
            raise InputError(
                f"study.arms.{name}.control_of={arm.control_of}: that arm is no reinforcement learning "
                f"({of.method}). Name an arm whose method is one of {_METHODS}"
            )
    return arms


def _controls(config: Config, name: str, arm: ArmConfig) -> dict[str, ArmConfig]:
    """The controls of one arm, by name, all from its start.

    What learns from solutions has the settings of the first SFT with the same adapter, as far as there is
    one, but for `control_rates`, and the solutions that its start was shown: reinforcement learning may ask
    questions whose solutions nobody has. A vote needs a group. Raises `InputError` for a rate of no control.
    """
    if odd := sorted(arm.control_rates.keys() - {"more-sft", "rejection"}):
        raise InputError(
            f"study.arms.{name}.control_rates: {odd[0]} is no control with a rate of its own. "
            "Write more-sft or rejection"
        )
    adapter, title = arm.set.get("peft", {}), arm.title or name
    supervised = [other for other in config.study.arms.values() if other.method == "sft"]
    alike = (other.set.get("train", {}) for other in supervised if other.set.get("peft", {}) == adapter)
    train: dict[str, Any] = next(alike, {})
    rollout: dict[str, Any] = arm.set.get("rollout", {})
    sections = ("data", "prompt", "peft")
    asked: dict[str, Any] = {section: arm.set[section] for section in sections if section in arm.set}
    start = config.study.arms.get(arm.init)
    for shown in [start] if start in supervised else supervised[:1]:
        asked["data"] = shown.set.get("data", {})
    rates = {key: train["learning_rate"] for key in ("more-sft", "rejection") if "learning_rate" in train}
    own = {key: {"learning_rate": rate} for key, rate in (rates | arm.control_rates).items()}
    rounds = rollout.get("max_steps", config.rollout.max_steps)
    drawn: dict[str, Any] = {
        **arm.set,
        "train": {**arm.set.get("train", {}), **own.get("rejection", {})},
        "rollout": {**rollout, "max_steps": MOST_ROUNDS * rounds},
    }
    chosen: dict[str, tuple[str, str, dict[str, Any]]] = {
        "more-sft": ("sft", "more SFT", {**asked, "train": {**train, **own.get("more-sft", {})}}),
        "rejection": ("rejection", "own right samples", drawn),
    }
    for source in ("coin", "format", "majority"):
        if source != "majority" or rollout.get("num_generations", config.rollout.num_generations) > 1:
            paid = {**arm.set, "rollout": {**rollout, "reward": source}}
            chosen[source] = (arm.method, f"{source} reward", paid)
    return {
        f"{name}-{key}": ArmConfig(f"{what} ({title})", method, arm.init, name, settings)
        for key, (method, what, settings) in chosen.items()
    }


MOST_ROUNDS = 8
"""Rejection sampling draws at most this many times as often as the arm whose operations it spends."""


def _visit(name: str, arms: dict[str, ArmConfig], ordered: list[str], path: tuple[str, ...]) -> None:
    """Depth-first: what an arm starts from stands before it."""
    if name in path:
        raise InputError(
            f"the arms start from one another in a circle: {' -> '.join([*path[path.index(name) :], name])}"
        )
    if name in ordered:
        return
    for key in ("init", "control_of"):
        if needed := getattr(arms[name], key):
            _known(needed, arms, f"study.arms.{name}.{key}")
            _visit(needed, arms, ordered, (*path, name))
    ordered.append(name)
