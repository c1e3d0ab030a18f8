"""Whether the policy drew the completions that it would learn from: one gate for every `rollout.engine`.

Completions of each step are scored before any update. All of those of step 1, later some, must be as likely
as the engine that drew them says. Where they are not, known faults are tried in turn as the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from peft import PeftModel

from reckoner import ranks
from reckoner.engine.hidden_states import completion_states
from reckoner.engine.logprobs import completion_logprobs
from reckoner.errors import InputError
from reckoner.models.adapters import adapters_off
from reckoner.models.policy import Policy
from reckoner.runs.folder import Run
from reckoner.training.rollouts import Rollout, iter_microbatches

GAP_LIMIT = 1e-3
"""Largest `sampler_gap` in fp32, where rounding gives 1e-7 to 2e-5."""

HALF_GAP_LIMITS = (0.01, 0.1)
"""The same in bfloat16 and float16, where rounding gives 0.001 to 0.02, and 0.08 where logits are extreme. It
hardly changes within a run, so after step 1 the limit is twice the gap of step 1, between these two."""

EVIDENCE_LIMIT = 20.0
"""Largest `sampler_evidence`, in nats: an honest sampler exceeds it once in 2e8 steps."""

GAP_SHARE, GAP_SAMPLES = 8, (16, 64)
"""Both are measured on all completions of step 1, then on every eighth, but at least and at most so many."""

COLDER, HOTTER = 0.8, 1.25
"""Factors of the temperature of the two policies that `sampler_evidence` compares with this one."""

EXPLAINED = 32
"""Completions on which the reason of a gap is looked for."""

REMEDIES = {
    "own": "Set eval.engine=transformers and report this model",
    "process": "Set rollout.engine=own and report this model",
    "vllm": "Set rollout.engine=own, or another version of vLLM",
}


def gap_rows(count: int, step: int) -> range:
    """The completions, of `count` of a step, on which it is measured whether the policy drew them."""
    few, many = GAP_SAMPLES
    return range(0, count, 1 if step == 1 else max(1, min(GAP_SHARE, count // few), count // many))


class Gate:
    """Lets no update begin on completions that the policy did not draw.

    Reads from the metrics how wide the gap of step 1 was, so that a resumed run has the same limit.
    """

    def __init__(self, run: Run) -> None:
        self.rollout = run.config.rollout
        past = [line for line in ranks.from_first(run.metrics) if "reward" in line]
        self.first_gap = past[0]["sampler_gap"] if past else math.inf

    def check(self, policy: Policy, rollout: Rollout, step: int, max_tokens: int) -> dict[str, float]:
        """The two measures of docs/metrics.md; `InputError` where `policy` did not draw the completions.

        `sampler_gap` is the sum of |log pi - log pi_old| over that of -log pi_old: rounding makes it a
        constant of the precision, whatever the entropy. `sampler_evidence` is the log of the likelihood
        ratio of the drawn tokens under a colder or a hotter policy against this one. It sees a sampler that
        cuts its distribution and reports the whole one. For an honest sampler the ratio is a martingale of
        mean 1, so the evidence exceeds x with probability e^-x at most (Ville's inequality).
        """
        rows, temperature = gap_rows(len(rollout.examples), step), self.rollout.temperature
        drawn = _Drawn(policy, rollout, rows, max_tokens)
        same, *others = drawn.compare([temperature * factor for factor in (1.0, COLDER, HOTTER)])
        gap, (colder, hotter) = same.gap, (other.gain - same.gain for other in others)
        least, most = HALF_GAP_LIMITS
        limit = GAP_LIMIT if policy.dtype == torch.float32 else min(most, max(least, 2 * self.first_gap))
        wrong = ""
        if gap > limit:
            few = _Drawn(policy, rollout, rows[:: max(1, len(rows) // EXPLAINED)], max_tokens)
            why = few.explain(temperature, min(limit, gap / 3), moved=step > 1)
            wrong = f"their log-probs differ from the policy's by {gap:.2g} of themselves (limit {limit:.2g})"
            wrong += f"; {why}"
        elif max(colder, hotter) > EVIDENCE_LIMIT:
            lower = "a lower temperature, or cut by top-p or top-k"
            how = lower if colder > hotter else "a higher temperature"
            wrong = f"their log-probs are right, but they are far likelier at {how}"
        if wrong:
            raise InputError(
                f"step {step}: the completions were not drawn by the policy that would learn from them: "
                f"{wrong}. {REMEDIES[self.rollout.engine]}"
            )
        if step == 1:
            self.first_gap = gap
        return {"sampler_gap": gap, "sampler_evidence": max(colder, hotter)}


class _Difference(NamedTuple):
    """How the policy's log-probs differ from those that were reported, as shares of what was reported."""

    gap: float  # sum of the absolute differences
    above: float  # of those alone where the policy finds a token likelier
    gain: float  # sum of the differences, in nats


class _Drawn:
    """The completions `rows` of a rollout, with the policy that should have drawn them."""

    def __init__(self, policy: Policy, rollout: Rollout, rows: range, max_tokens: int) -> None:
        self.policy, self.rollout, self.rows, self.max_tokens = policy, rollout, rows, max_tokens

    @torch.no_grad()
    def compare(self, temperatures: Sequence[float]) -> list[_Difference]:
        """How the policy differs at each temperature."""
        policy, rollout = self.policy, self.rollout
        sums, surprise = (
            torch.zeros(len(temperatures), 3, device=rollout.mask.device),
            rollout.rewards.new_zeros(1),
        )
        for batch, index in iter_microbatches(policy, rollout, self.rows, self.max_tokens):
            old = rollout.logprobs[index]
            surprise += torch.maximum(-old.sum(), 0.01 * old.new_tensor(len(old)))  # where all is certain
            with policy.autocast():
                states = completion_states(policy.model, batch)
                for row, temperature in zip(sums, temperatures, strict=True):
                    new = completion_logprobs(policy.model, batch, temperature, states=states).logprobs
                    change = new - old
                    row += torch.stack([change.abs().sum(), change.clamp(min=0).sum(), change.sum()])
        whole = ranks.add(surprise).item() or math.inf
        return [
            _Difference(gap / whole, above / whole, gain) for gap, above, gain in ranks.add(sums).tolist()
        ]

    def explain(self, temperature: float, enough: float, moved: bool) -> str:
        """The known fault with which the policy is as near to what was reported as `enough`, in words."""
        if isinstance(self.policy.model, PeftModel):
            with adapters_off(self.policy):
                if self.compare([temperature])[0].gap <= enough:
                    return "they are those of the model without its adapter"
        above = self.compare([temperature])[0].above
        fitting, difference = self._fit(temperature)
        if difference.gap <= enough and difference.gap < above:
            return f"they are those of temperature {fitting:.2f}, not of rollout.temperature={temperature:g}"
        if above <= enough:
            return "no token is likelier than they say, as in a distribution cut by top-p or top-k"
        return "as of stale weights, from before the last update" if moved else "as of other weights"

    def _fit(self, temperature: float) -> tuple[float, _Difference]:
        """The temperature with the least gap, within a factor of 4: ever finer grids."""
        step = 4 ** (1 / 16)
        for _ in range(4):
            grid = [temperature * step**i for i in range(-16, 17)]
            best, temperature = min(zip(self.compare(grid), grid, strict=True))
            step **= 1 / 16
        return temperature, best
