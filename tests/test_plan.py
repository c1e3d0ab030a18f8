"""A plan's arithmetic against hand-worked numbers, published logs and peft itself."""

from __future__ import annotations

import json

import pytest

from reckoner.config import ModelConfig, load_config
from reckoner.faults import InputError
from reckoner.models.policy import load_policy
from reckoner.plan import plan

GEMMA = ["model.model_name_or_path=google/gemma-2b-it", "model.device=cpu", "data.source=gsm8k"]


def planned(*overrides, **arguments):
    return plan(load_config("", (), [*GEMMA, *overrides]), **arguments)


@pytest.mark.parametrize("r, expected", [(4, 4_902_912), (8, 9_805_824), (16, 19_611_648), (32, 39_223_296), (64, 78_446_592)])
def test_lora_on_gemma_2b_as_the_original_log_says(r, expected):
    found = planned("peft.method=lora", f"peft.lora_r={r}")
    assert found.trainable == expected and found.parameters == 2_506_172_416


def test_the_line_of_the_original_log():
    rows = dict(planned("peft.method=lora").rows())
    assert rows["parameters"] == "2,506,172,416" and rows["trainable parameters"] == "19,611,648 (0.7765 %)"
    assert planned("peft.method=lora", "peft.lora_target_modules=[q_proj, v_proj]").trainable == 1_843_200


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_lora_counts_are_those_of_peft(tiny_model, bias):
    config = load_config("", (), [f"model.model_name_or_path={tiny_model}", "peft.method=lora", "peft.lora_r=3", f"peft.lora_bias={bias}"])
    assert plan(config).trainable == load_policy(ModelConfig(str(tiny_model)), config.peft, train=True).parameters_trainable


def test_steps_of_the_original_study():
    found = planned("train.per_device_train_batch_size=8", "train.gradient_accumulation_steps=2", samples=7473)
    # 7473 / 16 = 467.06: its trainer dropped the last example and took 467; here no example is dropped
    assert (found.batch, found.steps_per_epoch, found.steps, found.warmup_steps) == (16, 468, 468, 15)
    assert planned("train.num_train_epochs=1.5", samples=1600).steps == 150


def test_what_is_not_given_is_assumed_and_said():
    found = planned("data.dev_size=500")
    assert found.samples == 7_473 - 500 - 8
    assert "7,473 train problems less 500 for dev and 8 for prompts" in found.assumptions
    assert planned("data.dev_size=0.1").samples == 7_473 - 747 - 8
    assert planned("data.max_train_samples=100").samples == 100
    given = planned(samples=10, lengths=(100, 60), operations_per_second=1e12)
    assert given.assumptions == ("1 TFLOP/s sustained on this cpu",) and (given.tokens, given.supervised_tokens) == (1000, 600)
    with pytest.raises(InputError, match="leaves no train problem"):
        planned("data.dev_size=8000")


def test_operations_time_and_cost_by_hand():
    head, block = 256_000 * 2_048, 2_506_172_416 - 256_000 * 2_048
    full = planned(samples=10, lengths=(100, 60), operations_per_second=1e12, rate_per_hour=3.6)
    assert full.flops == 6 * block * 1000 + 6 * head * 600
    assert full.seconds == pytest.approx(full.flops / 1e12) and full.cost == pytest.approx(full.seconds * 0.001)
    lora = planned("peft.method=lora", samples=10, lengths=(100, 60))
    assert lora.flops == (4 * block + 6 * 19_611_648) * 1000 + 4 * head * 600 and lora.cost is None
    again = planned("model.gradient_checkpointing=true", samples=10, lengths=(100, 60))
    assert again.flops == full.flops + 2 * block * 1000


def test_memory_by_hand():
    full = planned("model.dtype=bfloat16", "train.per_device_train_batch_size=8", lengths=(100, 60)).memory
    n = 2_506_172_416
    assert (full.weights, full.gradients, full.optimizer, full.autocast, full.adapter) == (4 * n, 4 * n, 8 * n, 2 * n, 0)
    kept = 6 * 2048 + 3 * 2048 + 2 * 256 + 4 * 16384
    assert full.activations == 800 * 18 * (2 * kept + 8 * 2048)
    assert full.total == full.weights + full.gradients + full.optimizer + full.autocast + full.activations + full.logits
    lora = planned("model.dtype=bfloat16", "peft.method=lora", "train.optim=adamw_8bit").memory
    assert (lora.weights, lora.adapter, lora.gradients, lora.optimizer) == (2 * n, 4 * 19_611_648, 4 * 19_611_648, 2 * 19_611_648)
    assert planned("model.gradient_checkpointing=true").memory.activations < planned().memory.activations / 10


def test_a_plan_is_json_and_rows():
    found = planned("peft.method=lora", rate_per_hour=2.0)
    value = json.loads(json.dumps(found.to_dict()))
    assert value["memory"]["total"] == found.memory.total and value["trainable"] == 19_611_648
    rows = dict(found.rows())
    assert rows["method"] == "lora r=16 alpha=32" and "cost" in rows and rows["steps"].startswith(f"{found.steps:,} (")


def test_unknown_targets_and_models():
    with pytest.raises(InputError, match="c_attn not in this model"):
        planned("peft.method=lora", "peft.lora_target_modules=[c_attn]")
    with pytest.raises(InputError, match="its shape is not known"):
        planned("model.model_name_or_path=org/unknown")
