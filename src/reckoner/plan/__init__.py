"""What a run will take, before it runs: parameters, steps, memory, time and cost, without weights or network."""

from __future__ import annotations

from reckoner.plan.run import Plan, measured_machine, plan, plan_counts

__all__ = ["Plan", "measured_machine", "plan", "plan_counts"]
