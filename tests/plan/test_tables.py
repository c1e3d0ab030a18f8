"""What people read of a plan."""

from __future__ import annotations

import json

import pytest

from reckoner.cli import main
from reckoner.config import load_config
from reckoner.plan import plan, plan_counts
from reckoner.plan.tables import duration, gpu_table, memory_table, run_rows, size, too_large


@pytest.mark.parametrize(
    "seconds, text", [(7, "7 s"), (89, "89 s"), (100, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("count, text", [(2**20, "1 MiB"), (2**30, "1.0 GiB"), (80 * 10**9, "74.5 GiB")])
def test_sizes(count, text):
    assert size(count) == text


def test_one_run_in_full():
    rows = dict(
        map(
            tuple,
            run_rows(plan(load_config("gemma-2b", (), ["peft.method=lora"]), on="h100", rate_per_hour=3.0)),
        )
    )
    assert rows["parameters"] == "2,506,172,416" and rows["trainable parameters"] == "19,611,648 (0.7765 %)"
    assert rows["method"] == "sft lora r=16" and rows["steps"] == "436 (1 epochs, 436 optimizer updates)"
    assert rows["a step"] == "16 x 1 = 16" and "cost" in rows and rows["memory"].startswith("about ")


def test_parts_that_no_arm_has_are_left_out():
    plans = plan_counts(load_config("gemma-2-9b-lora"), on="h100")[1]
    headers, rows = memory_table(plans)
    assert "critic" not in headers and "reference" not in headers and headers[-1] == "total"
    assert [row[0] for row in rows] == [one.name for one in plans]
    assert rows[0][headers.index("gradients")] == ""


def test_what_does_not_fit_is_named_with_what_helps():
    plans = plan_counts(load_config("gemma-2b"), on="h100")[1]
    assert too_large(plans).startswith("does not fit: ppo (") and "ppo.critic=head" in too_large(plans)
    assert too_large(plan_counts(load_config("gemma-2b"), on="h200")[1]) == ""


def test_a_column_for_each_number_of_gpus():
    headers, rows = gpu_table(plan_counts(load_config("gemma-2b"), "full-main", 4, on="h100"))
    assert headers == ["on GPUs", "1", "2", "4"] and [row[0] for row in rows] == ["full-main"]


def test_the_verb(capsys):
    assert main(["plan", "--preset", "gemma-2b", "--on", "h200", "--gpus", "2", "--rate", "3"]) == 0
    out = capsys.readouterr().out
    assert "19,611,648" in out and "assumed: H200" in out and "on GPUs" in out and "does not fit" not in out
    assert main(["plan", "--preset", "gemma-2b", "--arm", "lora-main", "--on", "h200", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["trainable"] == 19_611_648
    assert main(["plan", "--preset", "gemma-2b", "--on", "h300"]) == 2
    assert main(["plan", "run.threads=1", "--measure", "--on", "h100"]) == 2
    assert "there is no GPU here" in capsys.readouterr().err
