"""What the arms of a study do on other sets: the generalisation ledger, and what training cost elsewhere.

Every set of `study.suites` is compared as the study's own test is, arm by arm with the best prompt, and
Holm's correction goes over all sets together. The sets of `study.forgetting` are a family of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from reckoner.analysis.compare import Outcome, Pair
from reckoner.analysis.findings import Findings, Result, answered, compared
from reckoner.analysis.intervals import wilson
from reckoner.analysis.statistics import holm
from reckoner.analysis.study_records import declared_suites
from reckoner.analysis.tables import Cell, Row, Table, gap, interval, number, outcome, scores
from reckoner.analysis.wording import percent, span

MOST_GROUPS = 20
"""A set with more categories than this, as MMLU, is not shown by category."""


@dataclass(frozen=True)
class SuiteFindings:
    """One set with the findings on it; `pairs` has Holm's p over all sets of its family, by arm."""

    name: str
    forgetting: bool
    on: Findings
    pairs: Mapping[str, Pair]

    def groups(self, result: Result) -> dict[str, tuple[float, int]]:
        """Share solved and number of problems by category, for a set with several categories."""
        shares: dict[str, list[float]] = defaultdict(list)
        for name, share in result.source.shares(result.reading).items():
            shares[result.source.problems[name].category].append(share)
        few = 1 < len(shares) <= MOST_GROUPS
        return {label: (sum(of) / len(of), len(of)) for label, of in sorted(shares.items())} if few else {}

    def between_templates(self, result: Result) -> float | None:
        """Standard deviation of the accuracy between templates; None where problems share no template."""
        shares = result.source.shares(result.reading)
        templates = [result.source.problems[name].template for name in shares]
        return std_between(list(shares.values()), templates) if all(templates) else None


def suite_findings(findings: Findings) -> list[SuiteFindings]:
    """The findings on every set that the study declared and at least one arm answered, in their order."""
    study = findings.study
    declared = declared_suites(study.folder)
    found: list[SuiteFindings] = []
    for forgetting, names in ((False, declared["suites"]), (True, declared["forgetting"])):
        family = []
        for name in names:
            if sources := answered(study, name):
                family.append((name, compared(study, sources)))
        pairs = [(name, result.pair) for name, on in family for result in on.results if result.pair]
        adjusted = holm([pair.difference.p for _, pair in pairs]) if pairs else []
        judged = [(name, _judged(pair, p)) for (name, pair), p in zip(pairs, adjusted, strict=True)]
        found += [
            SuiteFindings(name, forgetting, on, {pair.a: pair for own, pair in judged if own == name})
            for name, on in family
        ]
    return found


def _judged(pair: Pair, p_holm: float) -> Pair:
    """A pair with its p over all sets, and the verdict that follows from it.

    Where problems share templates, the interval over the choice of templates must leave out zero too: fifty
    instances of one seed question are not fifty independent problems.
    """
    verdict: Outcome = "better" if pair.difference.estimate > 0 else "worse"
    low, high = pair.over_templates or (pair.difference.estimate,) * 2
    clear = p_holm < 0.05 and (low > 0 or high < 0)
    return replace(pair, p_holm=p_holm, verdict=verdict if clear else "unresolved")


def std_between(values: Sequence[float], clusters: Sequence[Hashable]) -> float | None:
    """Standard deviation between clusters (the seed questions of a set) beyond what chance in them makes.

    A one-way model with random effects by the method of moments (Searle, Casella, McCulloch 1992, ch. 3).
    None where no cluster has two values, or there is one cluster only.
    """
    groups: dict[Hashable, list[float]] = defaultdict(list)
    for value, cluster in zip(values, clusters, strict=True):
        groups[cluster].append(value)
    n, sizes = len(clusters), np.array([len(group) for group in groups.values()])
    if len(groups) < 2 or n == len(groups):
        return None
    means, mean = np.array([np.mean(group) for group in groups.values()]), float(np.mean(values))
    between = float((sizes * (means - mean) ** 2).sum()) / (len(groups) - 1)
    within = sum(float(((np.array(g) - np.mean(g)) ** 2).sum()) for g in groups.values()) / (n - len(groups))
    typical = (n - float((sizes**2).sum()) / n) / (len(groups) - 1)
    return sqrt(max(0.0, (between - within) / typical))


def ledger_tables(findings: Findings) -> list[Table]:
    """The ledger, a row for each arm on each set; and the sets with several categories, by category."""
    found = suite_findings(findings)
    note = (
        "Prompts count by the better of strict and forgiving grading, trained arms strictly. Holm's p is "
        "over all sets; those of forgetting are a family of their own. Between templates: the standard "
        "deviation of the accuracy between seed questions, beyond chance. Over templates: the interval of "
        "the difference over the choice of seed questions, which a verdict needs too."
    )
    rows, tables = [], []
    for one in found:
        kind = " (forgetting)" if one.forgetting else ""
        for result in one.on.results:
            cells = scores(result.score)
            if pair := one.pairs.get(result.arm.name):
                cells["vs best prompt"] = gap(pair.difference)
                if pair.over_templates:
                    cells["over templates"] = interval(*pair.over_templates)
                cells |= outcome(pair)
            if (spread := one.between_templates(result)) is not None:
                cells["between templates"] = number(100 * spread, ".1f")
            at = findings.study.arms.index(result.arm)
            rows.append(Row(f"{one.name}{kind}: {result.title}", cells, at))
        grouped = {result.title: one.groups(result) for result in one.on.results}
        if any(grouped.values()):
            shares = [
                Row(
                    title,
                    {
                        f"{label} ({n:,})": Cell(percent(share), share, span(*wilson(share * n, n)))
                        for label, (share, n) in of.items()
                    },
                )
                for title, of in grouped.items()
            ]
            tables.append(Table(f"{one.name} by category", "arm", tuple(shares)))
    return [Table("Every arm on every set", "set and arm", tuple(rows), note), *tables] if rows else []
