"""What a study will be able to say, worked out before it runs: the power of each declared pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reckoner.analysis import power, seeds
from reckoner.analysis.seeds import ENOUGH
from reckoner.analysis.wording import both, percent, size


@dataclass(frozen=True, slots=True)
class Design:
    """A study before it runs. `pairs` are those declared, with `baseline` in the place of the best prompt.

    `trained` are the arms that have `seeds` runs each; `prompts` is how many prompts are tried. Assumed are
    `discordance`, the share of problems on which two runs disagree, and `seed_std`, the standard deviation of
    an arm's accuracy between seeds. `left_out` are "prompts" and "controls" that the study has and this
    command does not run.
    """

    n: int
    seeds: int
    pairs: tuple[tuple[str, str], ...]
    trained: frozenset[str]
    rewarded: frozenset[str]
    controlled: frozenset[str]
    prompts: int
    discordance: float
    seed_std: float
    alpha: float = 0.05
    left_out: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The smallest true difference that the test of a pair finds with 80 % power; None where none can be."""

    a: str
    b: str
    smallest: float | None


def foresee(design: Design) -> list[Foreseen]:
    """Each declared pair at the first Holm step, which is the hardest."""
    known: dict[int, float | None] = {}
    for varying in {_varying(design, pair) for pair in design.pairs}:
        known[varying] = _smallest(design, varying)
    return [Foreseen(*pair, known[_varying(design, pair)]) for pair in design.pairs]


def _varying(design: Design, pair: tuple[str, str]) -> int:
    """Arms of a pair whose accuracy varies with the seed."""
    return sum(name in design.trained for name in pair)


def _smallest(design: Design, varying: int) -> float | None:
    step = design.alpha / len(design.pairs)
    if design.seeds < ENOUGH or not varying:
        return power.detectable(design.n, design.discordance, step)
    noise = seeds.assumed_noise(design.n, design.seeds, design.discordance, design.seed_std, varying)
    found = seeds.detectable_seeds(noise, step)
    return None if found is None or found > design.discordance else found


@dataclass(frozen=True, slots=True)
class Sight:
    """The smallest true difference that `n` problems show with 80 % power; None where none can be shown.

    Between two runs on the same problems, between accuracies of separate samples of `n` each, and between two
    methods over seeds, where there are enough of them.
    """

    n: int
    same: float | None
    separate: float | None
    methods: float | None


def sight(
    n: int,
    accuracy: float = 0.3,
    discordance: float = 0.2,
    comparisons: int = 1,
    runs: int = 1,
    seed_std: float = 0.01,
) -> Sight:
    """What `n` problems can show at the first Holm step of so many comparisons.

    Assumed are the `accuracy` of the worse one, and for `runs` seeds of each method what `Design` assumes.
    """
    pairs, nobody = (("a", "b"),) * comparisons, frozenset[str]()
    design = Design(n, runs, pairs, frozenset("ab"), nobody, nobody, 0, discordance, seed_std)
    step = design.alpha / comparisons
    return Sight(
        n,
        power.detectable(n, discordance, step),
        power.detectable_unpaired(n, n, accuracy, step),
        _smallest(design, varying=2) if runs >= ENOUGH else None,
    )


def outlook(design: Design, titles: Mapping[str, str]) -> list[str]:
    """At most ten lines for whoever starts the study: what it can show, and what it cannot."""
    foreseen = foresee(design)
    runs = f"{design.seeds} seeds" if design.seeds > 1 else "1 seed"
    family = f"{len(foreseen)} declared pairs (Holm)"
    lines = [
        f"what this study can show: {family}, n = {design.n:,} test problems, {runs}",
        f"assumed: two runs disagree on {percent(design.discordance)} of the problems"
        + (f", seeds vary by {size(design.seed_std)} points" if design.seeds >= ENOUGH else ""),
    ]
    by_smallest: dict[float | None, list[str]] = {}
    for one in foreseen:
        pair = f"{titles.get(one.a, one.a)} - {titles.get(one.b, one.b)}"
        by_smallest.setdefault(one.smallest, []).append(pair)
    hopeless = by_smallest.pop(None, [])
    lines += [
        f"from {size(smallest or 0.0)} points on, with 80 % power: {_listed(pairs)}"
        for smallest, pairs in by_smallest.items()
    ]
    if hopeless:
        lines.append(f"cannot succeed at this n, whatever is true: {_listed(hopeless)}")
    lines.append(
        f"a method can be called better, over {design.seeds} seeds"
        if design.seeds >= ENOUGH
        else "no method can be called better, only these runs: study.seeds=3 measures the seeds"
    )
    lines.append(
        "training is compared with "
        + ("one prompt" if design.prompts == 1 else f"the best of {design.prompts} prompts on dev")
        + ", its format forgiven"
        if design.prompts
        else "no prompt is tried, so training cannot be said to beat prompting"
        + (" (--arm leaves prompts out)" if "prompts" in design.left_out else "")
    )
    if design.rewarded:
        bare = sorted(design.rewarded - design.controlled)
        remedy = "--arm leaves them out" if "controls" in design.left_out else "study.controls=true"
        lines.append(
            f"no controls of {_listed(bare)}: a gain may be more training or format ({remedy})"
            if bare
            else "the gain of RL is split into format, more training, own samples and the reward itself"
        )
    return lines


def _listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    return both(names) if len(names) <= most else f"{', '.join(names[:most])} and {len(names) - most} more"
