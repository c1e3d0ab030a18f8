"""Differences that the same weights show when they are computed in another way (`reckon noise`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reckoner.analysis.intervals import wilson
from reckoner.analysis.readers import CompletionSet
from reckoner.analysis.wording import percent, span


def noise_notes(
    arms: Mapping[str, Sequence[CompletionSet]], differences: Mapping[tuple[str, str], float]
) -> Iterator[str]:
    """The flip rate of each arm that `reckon noise` measured, and the differences below its upper end.

    The upper end of the rate's 95 % interval is the floor: no flip among n verdicts does not show that none
    happens.
    """
    floors: dict[str, float] = {}
    for name, members in arms.items():
        for noise in (one.settings["noise"] for one in members if "noise" in one.settings):
            way, worst = max(noise["ways"].items(), key=lambda item: item[1]["flips"])
            k, n = worst["flips"], noise["n"]
            low, high = wilson(k, n)
            floors[name] = max(high, floors.get(name, 0.0))
            yield (
                f"Noise floor of {name}: computed otherwise (worst: {way}), {k:,} of {n:,} verdicts on "
                f"{noise['split']} flip, {percent(k / n)} ({span(low, high)})."
            )
    for (a, b), difference in differences.items():
        floor = max((floors[name] for name in (a, b) if name in floors), default=0.0)
        if 0 < abs(difference) <= floor:
            yield (
                f"{a} against {b}: the difference is below the noise floor: a flip rate of up to "
                f"{percent(floor)} is not excluded."
            )
