"""The card of a run: Markdown with the Hub's metadata, every result with its n, interval, prompt and seed.

Losses and token counts are called what they are and never accuracy. Money and energy are seconds that were
measured, times a price and a power that the reader states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from reckoner import __version__
from reckoner.analysis.intervals import newcombe, wilson
from reckoner.analysis.mistakes import profile
from reckoner.analysis.page import environment
from reckoner.analysis.readers import CompletionSet, evaluated_set
from reckoner.analysis.study_records import RunRecord, read_run
from reckoner.analysis.wording import percent, points, span
from reckoner.errors import InputError

WEAKEST, EXAMPLES = 3, 2
"""Categories and examples that a card names."""
CURVE = 3
"""Dev evaluations from which a curve says whether to train longer."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What the reader pays for an hour, in any currency, and draws, in watts; 0 leaves a line out."""

    price: float = 0.0
    watts: float = 0.0


def card(folder: Path, base: str, licence: str = "", rates: Rates | None = None, note: str = "") -> str:
    """The card of a finished run as Markdown; `InputError` where it is not finished or not evaluated.

    `base` is the model that all training began with: a Hub id, or a name without "/" of one on no Hub. `note`
    is what whoever loads the weights should know.
    """
    run = read_run(folder)
    if not run.evaluations:
        raise InputError(f"{folder}: is not evaluated. Run: reckon eval {folder} eval.split=test")
    config = yaml.safe_load(run.config) or {}
    tested = run.evaluation("test") is not None
    facts = {
        "run": run,
        "base": base,
        "note": note,
        "config": config,
        "metadata": yaml.safe_dump(
            _metadata(run, config, base, licence), sort_keys=False, allow_unicode=False
        ),
        "results": [_result(one) for one in run.evaluations],
        "loss": _loss(run),
        "cost": _cost(run, rates or Rates()),
        "weakest": _weakest(evaluated_set(run, "test" if tested else "")),
        "more": _another_epoch(run),
        "seed": config.get("run", {}).get("seed", 0),
        "version": __version__,
    }
    return environment(autoescape=False).get_template("card.md.j2").render(**facts)


def _metadata(run: RunRecord, config: Mapping[str, Any], base: str, licence: str) -> dict[str, Any]:
    data = config.get("data", {})
    named = data.get("hub_name") if data.get("source") == "gsm8k" and not data.get("path") else ""
    made = {"seed": config.get("run", {}).get("seed", 0), "weights_sha256": dict(run.weights)}
    results = [
        {
            "task": {"type": "text-generation", "name": "math word problems"},
            "dataset": {"name": str(named or data.get("source", "")), "type": str(named or "local"),
                        "split": one.split},
            "metrics": [
                {
                    "type": "exact_match",
                    "name": f"strict accuracy (95 % {span(*wilson(one.strict, one.n))}, n = {one.n})",
                    "value": round(100 * one.strict / one.n, 2),
                    "args": {
                        "n": one.n,
                        "interval": [round(100 * bound, 2) for bound in wilson(one.strict, one.n)],
                        "prompt": one.prompt,
                        "prompt_sha256": one.prompt_hash,
                        "decoding": one.decoding,
                        "max_new_tokens": one.max_new_tokens,
                        "grader": one.grader or run.grader,
                        **made,
                    },
                }
            ],
        }
        for one in run.evaluations
    ]  # fmt: skip
    metadata = {
        "base_model": base if "/" in base else "",
        "license": licence,
        "datasets": [named] if named else [],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "tags": ["math", "reckoner"],
        "model-index": [{"name": run.name, "results": results}],
    }
    return {name: value for name, value in metadata.items() if value}


def _result(one: Any) -> dict[str, str]:
    shares = {name: getattr(one, name) for name in ("strict", "flexible")}
    scored = {name: f"{percent(k / one.n)} ({span(*wilson(k, one.n))})" for name, k in shares.items()}
    return {
        **scored,
        "split": one.split,
        "n": f"{one.n:,}",
        "prompt": f"{one.prompt} ({one.prompt_hash[:12]})",
        "decoding": f"{one.decoding}, at most {one.max_new_tokens} tokens",
        "cut": percent(one.truncated / one.n),
        "reads": str(one.reads) if one.split == "test" else "",
    }


def _loss(run: RunRecord) -> str:
    """How far the losses fell, in nats a supervised token, and token accuracy by its own name."""
    done = run.training
    if done is None or done.dev_loss_first is None or done.dev_loss_final is None:
        return ""
    fell = done.dev_loss_first - done.dev_loss_final
    said = (
        f"Dev loss went from {done.dev_loss_first:.4f} to {done.dev_loss_final:.4f} nats a supervised token, "
        f"a drop of {fell:.4f}. A loss is no accuracy."
    )
    _, shares = run.series("dev_token_accuracy")
    if not shares:
        return said
    return (
        f"{said} Token accuracy on dev went from {percent(shares[0])} to {percent(shares[-1])}: the share of "
        "the reference's tokens that the model puts first, given those before. It says nothing about answers."
    )


def _cost(run: RunRecord, rates: Rates) -> list[str]:
    """Seconds and tokens of training, and what these cost at the stated rates."""
    done = run.training
    if done is None:
        return ["Nothing was trained."]
    hours = done.seconds / 3600
    lines = [f"{done.seconds:,.0f} seconds of training, {done.steps:,} steps, {done.tokens:,} tokens"]
    lines += [f"{done.flops:.3g} FLOPs"] if done.flops else []
    lines += [f"{hours * rates.price:,.4g} at a price of {rates.price:g} an hour"] if rates.price else []
    energy = hours * rates.watts / 1000
    lines += [f"{energy:,.4g} kWh at a power of {rates.watts:g} W"] if rates.watts else []
    return lines


def _weakest(source: CompletionSet) -> list[dict[str, Any]]:
    """The categories that lose most, each with its interval and its most frequent mistakes."""
    groups = profile(source).groups.get("category", ())
    named = []
    for group in sorted(groups, key=lambda group: -group.wrong / group.n)[:WEAKEST]:
        own = {
            key: one for key, one in source.grades.items() if source.problems[key[0]].category == group.label
        }
        examples = [one for kind in profile(replace(source, grades=own)).kinds for one in kind.examples]
        share = f"{group.wrong:,} of {group.n:,} wrong, {percent(group.wrong / group.n)}"
        named.append({"label": group.label, "share": f"{share} ({span(group.low, group.high)})",
                      "examples": examples[:EXAMPLES]})  # fmt: skip
    return named


def _another_epoch(run: RunRecord) -> str:
    """What the last two dev evaluations say about training longer.

    The first one is before training: with two, the last stretch is all that was trained, and says nothing.
    """
    steps, solved = run.series("dev_strict")
    _, sizes = run.series("dev_n")
    if len(solved) < CURVE or len(solved) != len(sizes):
        return (
            f"Whether more training would help cannot be told: that takes {CURVE} dev evaluations, and "
            f"{len(solved)} {'was' if len(solved) == 1 else 'were'} logged. Set train.eval_steps lower."
        )
    (k_before, k_after), n = map(round, solved[-2:]), round(sizes[-1])
    low, high = newcombe(k_after, n, k_before, n)
    stretch = f"From step {steps[-2]:,.0f} to step {steps[-1]:,.0f}"
    change = f"{points((k_after - k_before) / n)} points of {n:,} dev problems ({span(low, high)})"
    if low > 0:
        return f"{stretch}, accuracy still rose by {change}: more training would probably help."
    if high < 0:
        return f"{stretch}, accuracy fell by {change}: more training would probably harm."
    return f"{stretch}, accuracy changed by {change}, which chance explains: more training need not help."
