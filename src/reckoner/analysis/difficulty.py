"""Where a gain came from: problems by how often the start solves them, and what the end gained on each kind.

Sorting problems by the samples that they are then measured on would show a gain where there is none: those
that looked hardest by chance look easier when they are drawn again. So every other sample of the start sorts
them, the rest measure it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reckoner.analysis.seeds import seed_difference
from reckoner.analysis.statistics import Difference
from reckoner.analysis.tables import Cell, Row, Table, gap, number, share
from reckoner.analysis.wording import points

Drawn = NDArray[np.bool_]
"""Which samples are right, [runs, problems, samples]."""

KINDS = ("never", "up to half of the time", "more often", "always")


@dataclass(frozen=True, slots=True)
class Band:
    """The n problems that the start solves so often: the share right `before` and `after`, and the gain.

    `part` is what they add to the gain over all problems: those of all bands add up to it.
    """

    name: str
    n: int
    before: float
    after: float
    gain: Difference
    part: float


def by_difficulty(start: Drawn, end: Drawn, paired: bool, seed: int = 0) -> tuple[Band, ...]:
    """The bands that hold problems, hardest first; `paired` runs belong together in their order."""
    solved = start[:, :, ::2].mean(axis=(0, 2))
    kinds = np.select([solved == 0, solved <= 0.5, solved < 1], [0, 1, 2], 3)
    before, after = start[:, :, 1::2].mean(axis=-1), end.mean(axis=-1)
    found = []
    for kind, name in enumerate(KINDS):
        if n := int((chosen := kinds == kind).sum()):
            one, other = before[:, chosen], after[:, chosen]
            gain = seed_difference(other, one, paired, seed=seed)
            part = gain.estimate * n / len(kinds)
            found.append(Band(name, n, float(one.mean()), float(other.mean()), gain, part))
    return tuple(found)


def difficulty_table(name: str, bands: Sequence[Band]) -> Table:
    """One line a band of the arm `name`."""
    rows = []
    for band in bands:
        cells = {
            "problems": number(band.n),
            "right before": share(band.before),
            "right after": share(band.after),
            "gain": gap(band.gain),
            "part of the whole gain": Cell(points(band.part), band.part),
        }
        rows.append(Row(band.name, cells))
    return Table(f"Where {name} gained, by how often its start solves a problem", "solved", tuple(rows))
