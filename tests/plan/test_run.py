"""A plan's arithmetic against hand-worked numbers, published logs and peft itself."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from reckoner.config import ModelConfig, load_config
from reckoner.faults import InputError
from reckoner.models.policy import load_policy
from reckoner.plan import plan, plan_counts
from reckoner.plan.machines import GPUS, Machine, cpu
from reckoner.plan.phases import Run, Sizes
from reckoner.plan.run import network_of

GEMMA = ["model.model_name_or_path=google/gemma-2b-it", "data.source=gsm8k"]
PARAMETERS = 2_506_172_416


def planned(*overrides, **arguments):
    return plan(load_config("", (), [*GEMMA, *overrides]), **{"on": "h100", **arguments})


def arms(preset, *overrides, gpus=1, **given):
    return {
        found.name: found
        for found in plan_counts(load_config(preset, (), overrides), gpus=gpus, on="h100", **given)[gpus]
    }


@pytest.mark.parametrize(
    "r, expected", [(4, 4_902_912), (8, 9_805_824), (16, 19_611_648), (32, 39_223_296), (64, 78_446_592)]
)
def test_lora_on_gemma_2b_as_the_original_log_says(r, expected):
    found = planned("peft.method=lora", f"peft.lora_r={r}")
    assert found.trainable == expected and found.parameters == PARAMETERS


def test_the_line_of_the_original_log():
    found = planned("peft.method=lora")
    assert f"{found.trainable:,} ({100 * found.trainable_share:.4f})" == "19,611,648 (0.7765)"
    assert planned("peft.method=lora", "peft.lora_target_modules=[q_proj, v_proj]").trainable == 1_843_200


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_lora_counts_are_those_of_peft(tiny_model, bias):
    config = load_config(
        "",
        (),
        [
            f"model.model_name_or_path={tiny_model}",
            "peft.method=lora",
            "peft.lora_r=3",
            f"peft.lora_bias={bias}",
        ],
    )
    assert (
        plan(config).trainable
        == load_policy(ModelConfig(str(tiny_model)), config.peft, train=True).parameters_trainable
    )


def test_steps_of_the_original_study():
    found = planned(
        "train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=2", samples=7473
    )
    # 7473 / 16 = 467.06: its trainer dropped the last example and took 467; here no example is dropped
    assert (found.batch, found.steps, found.updates, found.epochs) == ("8 x 2 = 16", 468, 468, 1.0)
    assert planned("train.num_train_epochs=1.5", samples=1600).steps == 150


def test_steps_of_verls_run():
    """29 updates an epoch of batch 256 there, with all 7,473 problems; 27.2 here, with 500 of them kept for dev."""
    found = arms("gemma-2-2b")
    assert (found["full-main"].batch, found["full-main"].steps) == ("32 x 8 = 256", 2 * 28)
    assert found["ppo"].batch == "512 x 1 = 512 drawn, 4 updates of 128"
    assert (found["ppo"].steps, found["ppo"].updates) == (100, 400)
    assert found["ppo"].epochs == pytest.approx(100 / 14)


def test_what_is_not_given_is_assumed_and_said():
    found = planned("data.dev_size=500")
    assert found.problems == 7_473 - 500 - 8
    assert "7,473 train problems less 500 for dev and 8 for prompts" in found.assumptions
    assert planned("data.dev_size=0.1").problems == 7_473 - 747 - 8
    assert planned("data.max_train_samples=100").problems == 100
    given = planned(samples=10, lengths=(100, 60))
    assert given.assumptions == (
        "H100 80 GB: 643 TFLOP/s in products, 2,680 GB/s elsewhere, 6 \u00b5s an operation (as asked)",
    )
    assert (given.tokens, given.supervised_tokens) == (1000, 600)
    with pytest.raises(InputError, match="leaves no train problem"):
        planned("data.dev_size=8000")


def test_every_arm_of_the_presets_is_planned():
    found = arms("gemma-2b")
    assert list(found)[:4] == [
        "prompt-0shot",
        "prompt-0shot-instruction",
        "prompt-1shot",
        "prompt-1shot-instruction",
    ]
    assert {name: one.trainable for name, one in found.items() if one.steps} == {
        "full-main": PARAMETERS,
        "full-socratic": PARAMETERS,
        "lora-main": 19_611_648,
        "lora-socratic": 19_611_648,
        "ppo": PARAMETERS,
        "grpo": PARAMETERS,
        "lora-grpo": 19_611_648,
    }
    assert found["prompt-0shot"].trainable == 0 and found["prompt-0shot"].memory.optimizer == 0
    assert [name for name, one in found.items() if one.memory.total > one.available] == ["ppo"]
    head = arms("gemma-2b", "study.arms.ppo.set.ppo.critic=head")["ppo"]
    assert head.memory.critic == 0 and head.memory.total < head.available
    assert not [name for name, one in arms("gemma-2-9b-lora").items() if one.memory.total > one.available]


def test_one_arm_alone_and_one_that_is_not_there():
    config = load_config("gemma-2b")
    assert [one.name for one in plan_counts(config, "ppo", on="h100")[1]] == ["ppo"]
    with pytest.raises(InputError, match="no arm pppo .did you mean ppo"):
        plan_counts(config, "pppo")
    assert [one.name for one in plan_counts(load_config("", (), GEMMA), on="h100")[1]] == ["sft"]


def test_states_by_hand():
    full = planned("model.dtype=bfloat16").memory
    n = PARAMETERS
    assert (full.weights, full.gradients, full.optimizer, full.autocast, full.adapter) == (
        4 * n,
        4 * n,
        8 * n,
        2 * n,
        0,
    )
    lora = planned("model.dtype=bfloat16", "peft.method=lora", "train.optim=adamw_8bit").memory
    assert (lora.weights, lora.adapter, lora.gradients, lora.optimizer) == (
        2 * n,
        4 * 19_611_648,
        4 * 19_611_648,
        2 * 19_611_648,
    )
    assert planned("peft.method=qlora").memory.weights == round(0.55 * n)
    ppo = planned("rollout.kl_samples=64", method="ppo").memory
    assert (ppo.reference, ppo.critic) == (2 * n, 16 * n)
    assert planned("rollout.kl_samples=0", method="ppo").memory.reference == 0
    assert planned("peft.method=lora", method="grpo").memory.reference == 0
    assert planned("model.gradient_checkpointing=true").memory.activations < planned().memory.activations / 5
    lean = planned(
        "model.dtype=bfloat16",
        "model.train_dtype=bfloat16",
        "train.optim=adamw_8bit",
        "model.gradient_checkpointing=true",
    )
    assert (lean.memory.weights, lean.memory.gradients, lean.memory.optimizer, lean.memory.autocast) == (
        2 * n,
        2 * n,
        2 * n,
        0,
    )
    assert "master" not in lean.precision and planned("model.dtype=bfloat16").precision.endswith(
        "float32 master weights"
    )


def test_the_peak_is_in_the_larger_phase():
    found = planned().memory
    assert found.total == found.lasting + found.gradients + found.autocast + found.activations + found.logits
    small = planned(
        "train.per_device_train_batch_size=1", "peft.method=lora", "eval.batch_size=4096", method="grpo"
    ).memory
    assert small.total == small.lasting + small.packed + small.keys


@pytest.mark.parametrize("name", ["gemma-2b", "gemma-2-9b", "gemma-3-27b"])
def test_more_gpus_take_less_memory_and_time_each_but_cost_more(name):
    config = load_config("gemma-2b", (), [f"model.model_name_or_path=google/{name}-it"])
    by_count = plan_counts(config, "full-main", 64, on="h100", rate_per_hour=1.0)
    assert list(by_count) == [1, 2, 4, 8, 16, 32, 64]
    plans = [plans[0] for plans in by_count.values()]
    memory, cost = [one.memory.total for one in plans], [one.cost for one in plans]
    assert memory == sorted(memory, reverse=True) and cost == sorted(cost)
    assert plans[0].phases["update"] / plans[3].phases["update"] == pytest.approx(8, rel=0.1)
    # a step has 16 sequences, so that more GPUs than that stand idle
    assert plans[-1].phases["update"] == pytest.approx(plans[4].phases["update"])


def test_a_plan_is_json():
    found = planned("peft.method=lora", rate_per_hour=2.0)
    value = json.loads(json.dumps(found.to_dict()))
    assert value["memory"]["total"] == found.memory.total and value["trainable"] == 19_611_648
    assert value["total_seconds"] == pytest.approx(sum(value["phases"].values()))
    assert value["cost"] == pytest.approx(2.0 * value["total_seconds"] / 3600)
    assert found.seconds == found.phases["update"]


def test_unknown_targets_models_and_devices():
    with pytest.raises(InputError, match="c_attn not in this model"):
        planned("peft.method=lora", "peft.lora_target_modules=[c_attn]")
    with pytest.raises(InputError, match="its shape is not known"):
        planned("model.model_name_or_path=org/unknown")
    with pytest.raises(InputError, match="--on h1000: not a device"):
        planned(on="h1000")


@pytest.mark.parametrize(("dropout", "times"), [(0.1, 3), (0.0, 1)])
def test_products_in_the_models_own_modules_take_longer(dropout, times):
    """LoRA's dropout keeps a CPU's training in the modules; nothing else of the plan changes."""
    config = load_config("nano", (), ["peft.method=lora", f"peft.lora_dropout={dropout}"])
    machine = Machine("toy", "cpu", 1e9, 1e30, 0.0, 2**40)
    same, slow = (plan(config, measured=replace(machine, slower=slower)) for slower in (1.0, 3.0))
    assert slow.phases["update"] == pytest.approx(times * same.phases["update"])
    assert {**slow.phases, "update": 0} == {**same.phases, "update": 0} and slow.flops == same.flops


def test_a_gpu_keeps_no_prepared_products_and_a_cpu_those_of_training_and_decoding():
    nano = load_config("", (), ["model.device=cpu", "run.threads=1"])
    assert planned().memory.kernels == 0 < plan(nano, "prompt").memory.kernels < plan(nano).memory.kernels
    assert plan(load_config("", (), ["model.dtype=bfloat16"]), on="cpu").memory.kernels == 0


def test_loops_serve_fine_tuning_on_any_number_of_cores_and_reinforcement_learning_on_two():
    def looped(method, threads, *overrides, machine=None):
        config = load_config("", (), [f"run.threads={threads}", *overrides])
        return Run(
            config, method, network_of("nano"), machine or cpu(threads), 1, Sizes.of(config)
        ).scored.looped

    assert [looped("sft", threads) for threads in (1, 2, 8)] == [True, True, True]
    assert [looped("grpo", threads) for threads in (1, 2, 8)] == [True, True, False]
    assert not looped("sft", 1, machine=GPUS["h100"]) and not looped(
        "sft", 1, "peft.method=lora", "peft.lora_dropout=0.1"
    )
