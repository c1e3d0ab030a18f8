"""A plan's arithmetic against hand-worked numbers, published logs and peft itself."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
import torch

from reckoner.cli import inspect as look
from reckoner.cli import main
from reckoner.cli.train import _estimate
from reckoner.config import ModelConfig, load_config
from reckoner.devices import HERE, LARGE, Device, device, measure, stored_devices
from reckoner.engine import backend
from reckoner.engine import hidden_states as states
from reckoner.engine.batches import Example, collate
from reckoner.engine.ops import onednn_ops
from reckoner.errors import InputError
from reckoner.models.policy import load_policy
from reckoner.plan import REPLICA, SLACK, plan, plan_counts
from reckoner.study.arms import plan_study
from reckoner.study.search import completions
from reckoner.tasks.gsm8k import problem_counts

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
    share = found.trainable / (found.parameters + found.adapter)
    assert f"{found.trainable:,} ({100 * share:.4f})" == "19,611,648 (0.7765)"
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


def test_an_arm_without_train_problems_is_named_and_the_others_are_planned(tmp_path, capsys):
    rows = [json.dumps({"question": f"{n}+1?", "answer": f"#### {n + 1}"}) + "\n" for n in range(41)]
    (tmp_path / "train.jsonl").write_text("".join(rows[1:]))
    (tmp_path / "test.jsonl").write_text(rows[0])
    settings = [f"data.path={tmp_path}", "data.dev_size=8"]
    settings += ["study.arms.later={method: grpo, init: full-socratic}"]
    why = f"{tmp_path}: no train_socratic.jsonl in this folder, which data.variant=socratic needs"
    assert main(["plan", "--preset", "nano", *settings]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, reason in (("full-socratic", why), ("later", "it needs full-socratic, which is refused")):
        assert f"arm {name} would be refused: {reason}" in shown
    assert "full-main" in shown and "lora-main" in shown
    assert main(["plan", "--preset", "nano", *settings, "--arm", "full-socratic"]) == 2
    assert why in " ".join(capsys.readouterr().err.split())
    (tmp_path / "train.jsonl").unlink()
    assert main(["plan", "--preset", "nano", *settings]) == 2
    assert "no train.jsonl in this folder" in " ".join(capsys.readouterr().err.split())


def test_steps_of_verls_run():
    """29 updates an epoch of batch 256 there, with all 7,473 problems; 27.2 here, with 500 of them kept for
    dev.
    """
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
    assert given.assumptions == ("H100 80 GB: 525 TFLOP/s to train, 293 TFLOP/s to generate (as asked)",)
    assert (given.tokens, given.supervised_tokens) == (1000, 600)
    with pytest.raises(InputError, match="leaves no train problem"):
        planned("data.dev_size=8000")


def test_every_arm_of_the_presets_is_planned():
    found = arms("gemma-2b")
    assert list(found)[:5] == [
        "searched-prompt",
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
        "grpo-untrained": PARAMETERS,
    }
    assert found["prompt-0shot"].trainable == 0 and found["prompt-0shot"].memory.optimizer == 0
    assert [name for name, one in found.items() if one.memory.total > one.available] == ["ppo"]
    head = arms("gemma-2b", "study.arms.ppo.set.ppo.critic=head")["ppo"]
    assert head.memory.critic == 0 and head.memory.total < head.available
    assert not [name for name, one in arms("gemma-2-9b-lora").items() if one.memory.total > one.available]


def test_the_study_of_smollm2_fits_a_small_machine():
    """Planned without the model's files."""
    found = plan_counts(load_config("smollm2", (), ["data.path=somewhere"]), on="cpu")[1]
    assert {one.parameters for one in found} == {134_515_008}
    assert [one.method.split()[0] for one in found].count("prompt") == 7  # the search is one
    assert max(one.memory.total for one in found) < 9e9


def test_one_arm_alone_and_one_that_is_not_there():
    config = load_config("gemma-2b")
    assert [one.name for one in plan_counts(config, "ppo", on="h100")[1]] == ["ppo"]
    with pytest.raises(InputError, match="no arm pppo .did you mean ppo"):
        plan_counts(config, "pppo")
    assert [one.name for one in plan_counts(load_config("", (), GEMMA), on="h100")[1]] == ["sft"]


def test_states_by_hand():
    full = planned("model.dtype=bfloat16").memory
    n = PARAMETERS
    assert (full.weights, full.gradients, full.optimizer, full.copies, full.adapter) == (
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
    assert (lean.memory.weights, lean.memory.gradients, lean.memory.optimizer, lean.memory.copies) == (
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
    lasting = found.libraries + found.products + found.weights + found.adapter + found.optimizer
    lasting += found.reference + found.critic
    assert found.total == lasting + found.gradients + found.copies + found.activations + found.logits
    small = planned(
        "train.per_device_train_batch_size=1", "peft.method=lora", "eval.batch_size=4096", method="grpo"
    ).memory
    lasting = small.libraries + small.weights + small.adapter + small.optimizer
    assert small.total == lasting + small.packed + small.keys


@pytest.mark.parametrize("name", ["gemma-2b", "gemma-2-9b", "gemma-3-27b"])
def test_more_gpus_take_less_time_each_but_cost_more_and_hold_the_whole_model(name):
    config = load_config("gemma-2b", (), [f"model.model_name_or_path=google/{name}-it"])
    by_count = plan_counts(config, "full-main", 64, on="h100", rate_per_hour=1.0)
    assert list(by_count) == [1, 2, 4, 8, 16, 32, 64]
    plans = [plans[0] for plans in by_count.values()]
    memory, cost = [one.memory.total for one in plans], [one.cost for one in plans]
    assert memory == sorted(memory, reverse=True) and cost == sorted(cost)
    assert plans[0].phases["update"] / plans[3].phases["update"] == pytest.approx(8, rel=0.1)
    # a step has 16 sequences, so that more GPUs than that stand idle
    assert plans[-1].phases["update"] == pytest.approx(plans[4].phases["update"])
    assert len({(one.memory.weights, one.memory.optimizer, one.memory.gradients) for one in plans}) == 1
    assert "exchange" not in plans[0].phases
    # float32 gradients; a ring of 4 sends 2 x 3/4 of them from each, over NVLink within a machine
    link, updates = 1e9 * stored_devices()["h100"]["link"], plans[2].updates
    assert plans[2].phases["exchange"] == pytest.approx(updates * 1.5 * 4 * plans[2].trainable / link)


def test_sharded_gpus_hold_a_share_each_and_gather_what_computes():
    whole, shared = (planned(f"run.shard={shard}", gpus=4) for shard in (False, True))
    kinds = ("weights", "optimizer", "gradients")
    assert all(getattr(shared.memory, k) == round(getattr(whole.memory, k) / 4) for k in kinds)
    ends, item = 256_000 * 2048, 2  # the tied embedding, in bfloat16
    layer = (PARAMETERS - ends) / 18
    # two layers and the ends, and the gradient of the ends in bfloat16 and float32
    assert shared.memory.copies == pytest.approx(item * (2 * layer + ends) + (item + 4) * ends, rel=1e-5)
    assert shared.memory.packed == pytest.approx(item * (2 * PARAMETERS - ends), rel=1e-5)
    assert shared.memory.total < whole.memory.total
    # a step of 2 x 8 sequences is one pass of 4 on each: bfloat16 weights twice, float32 gradients once
    link, sent = 1e9 * stored_devices()["h100"]["link"], 0.75 * (2 * item + 4) * PARAMETERS
    assert shared.phases["exchange"] == pytest.approx(shared.updates * sent / link)
    assert "each process holds a share of the model; each pass gathers each layer twice" in str(
        shared.assumptions
    )
    assert planned("run.shard=true").memory == planned().memory  # one GPU holds all


def test_a_model_that_no_gpu_holds_is_trained_by_eight_that_share_it():
    arguments = ["model.model_name_or_path=google/gemma-2-9b", "model.gradient_checkpointing=true"]
    whole, shared = (planned(*arguments, f"run.shard={shard}", gpus=8) for shard in (False, True))
    assert whole.memory.total > 1.8 * whole.available and shared.memory.total < 0.8 * shared.available


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


def config_of(*overrides):
    return load_config("", (), ["model.device=cpu", "run.threads=1", *overrides])


def test_seconds_are_operations_over_the_rate_of_their_work():
    """16 problems of 100 tokens, 60 supervised: 6 operations a weight and token; the embedded model has
    1,082,496.
    """
    rates = {"train": [(1.0, 1e9)], "lora": [(1.0, 5e8)], "modules": [(1.0, 1e8)], "generate": [(1.0, 2e9)]}
    toy = Device("toy", "cpu", 2**40, rates)
    block, head = 1_082_496 - 1024 * 128, 1024 * 128
    found = plan(config_of(), samples=16, lengths=(100.0, 60.0), measured=toy)
    assert found.phases["update"] == pytest.approx(16 * 6 * (100 * block + 60 * head) / 1e9)
    assert found.phases["test"] == pytest.approx(1319 * 2 * (100 * block + 60 * head) / 2e9)
    drawn = ("eval.temperature=1", "eval.num_samples=8", "eval.select=best", "eval.refine=Check it.")
    paid = plan(config_of(*drawn), samples=16, lengths=(100.0, 60.0), measured=toy)
    first = (40 + 8 * 60) * block + 8 * 60 * head  # 8 answers to a prompt that is read once
    again = 8 * ((100 + 60) * block + 60 * head)  # which are then read, each behind its prompt
    assert paid.phases["test"] == pytest.approx(1319 * 2 * (first + again) / 2e9)
    slow = plan(
        config_of("model.gradient_checkpointing=true"), samples=16, lengths=(100.0, 60.0), measured=toy
    )
    assert slow.phases["update"] == pytest.approx(10 * found.phases["update"])
    lora = [plan(config_of("peft.method=lora", f"peft.lora_dropout={p}"), measured=toy) for p in (0.0, 0.1)]
    assert lora[1].phases["update"] == pytest.approx(5 * lora[0].phases["update"])
    assert lora[0].flops == lora[1].flops


def test_the_operations_of_reinforcement_learning_by_hand():
    """A step of 4 prompts x 2 completions in one update; prompts shared by 2; scored by the reference; dev
    at both ends.
    """
    settings = ["rollout.num_prompts=4", "rollout.num_generations=2", "rollout.num_mini_batches=1"]
    settings += ["rollout.max_steps=1", "rollout.num_iterations=1", "grpo.kl_coef=0.1", "ppo.kl_coef=0.1"]
    toy = Device("toy", "cpu", 2**40, {"train": [(1.0, 1.0)]})
    grpo, ppo = (
        plan(config_of(*settings), method, lengths=(100.0, 60.0), samples=16, measured=toy).phases
        for method in ("grpo", "ppo")
    )
    block, head = 1_082_496 - 1024 * 128, 1024 * 128
    assert grpo["generate"] == pytest.approx(2 * ((4 * 40 + 480) * block + 480 * head))
    assert grpo["score"] == pytest.approx(2 * 8 * (100 * block + 60 * head))
    assert grpo["update"] == pytest.approx(6 * ((4 * 40 + 480) * block + 480 * head))
    assert ppo["score"] == pytest.approx(grpo["score"] + 2 * 8 * 100 * block)
    distill = plan(
        config_of(*settings, "distill.teacher=nano", "rollout.kl_samples=0"),
        "distill",
        lengths=(100.0, 60.0),
        samples=16,
        measured=toy,
    ).phases
    assert distill["score"] == pytest.approx(grpo["generate"]), "the teacher reads what was drawn, once"
    assert ppo["update"] == pytest.approx(grpo["update"] + 6 * 8 * 100 * block)


def test_rates_are_interpolated_between_the_sizes_they_were_measured_on():
    one = Device("toy", "cpu", 1, {"train": [(1e6, 1e9), (4e6, 4e9)]})
    assert [one.rate("train", n) for n in (1, 10**6, 2 * 10**6, 4 * 10**6, 10**9)] == pytest.approx(
        [1e9, 1e9, 2e9, 4e9, 4e9]
    )
    assert one.rate("generate", 2 * 10**6) == pytest.approx(2e9), (
        "without a rate of its own: that of training"
    )


def test_devices(monkeypatch):
    two, why = device(config_of("run.threads=2"), 10**6)
    assert (two.name, two.kind, why) == (
        "2 CPU cores",
        "cpu",
        "the cores of this machine; --measure times them",
    )
    one, _ = device(config_of(), 10**6)
    assert two.rate("train", 10**6) == pytest.approx(2 * one.rate("train", 10**6))
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    half, _ = device(config_of("model.dtype=bfloat16"), 10**6)  # measured on 135M: 223.6 and 107.4 GFLOP/s
    assert [half.rate(work, 10**8) / 1e9 for work in ("train", "generate")] == pytest.approx([223.6, 107.4])
    assert half.rate("train", 10**8) > 1.2 * one.rate("train", 10**8)
    large = LARGE + 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device(config_of("model.device=auto"), large)[0].name == "H100 80 GB"
    assert device(config_of("model.device=auto"), large, HERE)[0].kind == "cpu", "nothing else is here"
    a100, h200 = (device(config_of(), 1, name)[0] for name in ("a100", "h200"))
    assert a100.rate("train", 10**9) == pytest.approx(312 / 989 * h200.rate("train", 10**9))
    assert (h200.between(8), h200.between(16)) == (315e9, 40e9)


SMOLLM2 = 134_515_008


def per_core(work, *overrides):
    return device(config_of(*overrides), SMOLLM2)[0].rate(work, SMOLLM2) / 1e9


def test_rates_of_a_real_model_in_either_precision(monkeypatch):
    """Two cores: SFT 325.8 and 607.8 tokens/s at 0.736 GFLOP each, decoding 416.9 and 798.5 at 0.269."""
    works = ("train", "modules", "generate")
    for has in (True, False):
        monkeypatch.setattr(backend, "has_bfloat16", lambda has=has: has)
        assert [per_core(work) for work in works] == pytest.approx([119.9, 44.2, 56.1])
        low = [per_core(work, "model.dtype=bfloat16") for work in works]
        assert low == pytest.approx([223.6, 82.4, 107.4] if has else [119.9 / 14, 44.2 / 14, 56.1 / 6.3])


def test_the_study_of_smollm2_takes_half_the_time_in_bfloat16_where_the_cpu_has_it(monkeypatch):
    def planned(dtype):
        settings = ["model.device=cpu", "run.threads=2", f"model.dtype={dtype}"]
        found = plan_counts(load_config("smollm2", (), settings), "full-main")[1]
        return found[0].total_seconds / 3600, found[0].assumptions[-1]

    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    (single, advice), (half, _) = planned("auto"), planned("bfloat16")
    # 6,965 problems of 190 tokens, twice, at 326 tokens/s: 2.26 h; dev and test on top
    assert 2.3 < single < 2.8 and 1.6 < single / half < 2.2
    assert advice.endswith("model.dtype=bfloat16 takes about half the time on this CPU)")
    monkeypatch.setattr(backend, "has_bfloat16", lambda: False)
    slow, warning = planned("bfloat16")
    assert slow > 10 * single and backend.NO_BFLOAT16 in warning
    assert "bfloat16" not in planned("auto")[1]


def test_a_model_for_two_cores_is_planned_for_this_machine(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert device(config_of("model.device=auto"), SMOLLM2)[0].kind == "cpu"
    words = "as asked; measured on 2.5 billion parameters: a small model is many times slower"
    assert device(config_of(), SMOLLM2, "h200")[1] == words
    assert device(config_of(), 10**9, "h200")[1] == "as asked"


def test_what_is_asked_before_an_untrained_model_answers_is_planned():
    """12 prompts on 32 problems, then 6 on 64, 3 on 128, 2 on 256 and 1 on 500."""
    assert completions(12, 500) == 12 * 32 + 6 * 64 + 3 * 128 + 2 * 256 + 500 == 2164
    settings = ["model.device=cpu", "run.threads=1", "study.prompt_search=12"]
    found = {one.name: one for one in plan_counts(load_config("nano", (), settings))[1]}
    one, other = found["searched-prompt"].phases, found["prompt-0shot"].phases
    assert set(one) - set(other) == {"search"} and "limit" not in found["full-main"].phases
    assert other["limit"] == pytest.approx(200 / 500 * other["dev"])
    shown, drawn = 53.4 + 35 + 3.25 * 135.3, 81.9
    assert one["search"] / one["dev"] == pytest.approx(2164 / 500 * (shown + drawn) / (53.4 + drawn), rel=0.1)
    assert "search and limit on dev" in " ".join(found["searched-prompt"].assumptions)
    given = plan_counts(load_config("nano", (), [*settings, "eval.max_new_tokens=9"]), "searched-prompt")[1]
    assert "limit" not in given[0].phases


def test_the_head_of_a_study_names_hours_and_precision(capsys, monkeypatch):
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    config = load_config("smollm2", (), ["model.device=cpu", "run.output_dir=x", "study.prompt_search=0"])
    arms = [arm for arm in plan_study(config) if arm.name in ("full-main", "grpo")]
    _estimate(config, SimpleNamespace(count=2, threads=1), arms)
    head, line = capsys.readouterr().err.splitlines()
    assert head == "2 arms at once, 1 thread for each"
    # 2.6 h and 1.2 h of two cores, side by side on one each
    assert re.match(
        r"about 3:[34]\d:\d\d in all, 2:[45]\d:\d\d of it updates; cpu, float32; 1 CPU core", line
    )
    assert "model.dtype=bfloat16 takes about half the time" in line


def test_a_measured_device_has_the_rates_of_real_steps():
    config = config_of("train.per_device_train_batch_size=8", "eval.batch_size=8")
    found = measure(config, steps=2, drawn=8)
    assert found.name == "1 CPU core, measured" and found.kind == "cpu"
    for work in ("train", "generate"):
        ((parameters, rate),) = found.rates[work]
        assert parameters == 1_082_496 and 1e8 < rate < 1e13
    with pytest.raises(InputError, match="no H100 80 GB here"):
        measure(config, on="h100")


@pytest.mark.parametrize(
    ("settings", "modules"),
    [
        ([], True),
        (["peft.method=lora", "peft.lora_dropout=0.05"], True),
        ([], False),
        (["peft.method=lora"], False),
    ],
    ids=["full, modules", "lora with dropout", "full, packed", "lora, packed"],
)
def test_activations_are_those_that_autograd_keeps(settings, modules, monkeypatch):
    """4 sequences of 96 tokens, 60 of them supervised."""
    rows, length, completion = 4, 96, 60
    if modules:
        monkeypatch.setattr(backend, "modules_reason", lambda model: "asked")
        monkeypatch.setattr(onednn_ops, "AVAILABLE", False)
    config = config_of(*settings, "train.per_device_train_batch_size=4", f"train.max_length={length}")
    if modules and not settings:
        monkeypatch.setattr(
            "reckoner.plan.modules_reason", lambda network, **how: "as the modules compute it"
        )
    planned = plan(
        config, samples=16, lengths=(float(length), float(completion)), on="cpu"
    ).memory.activations
    policy = load_policy(config.model, config.peft, train=True)
    tokens = [tuple(range(10 + i, 10 + i + length)) for i in range(rows)]
    cut = length - completion
    batch = collate([Example(str(i), row[:cut], row[cut:]) for i, row in enumerate(tokens)], 0)
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    aligned = [n + -n % onednn_ops.ROW_MULTIPLE for n in (rows * completion, rows * length)]
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        activation = modules or tensor.shape[0] in (1, rows, *aligned, aligned[1] + onednn_ops.ROW_MULTIPLE)
        if activation and storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states.completion_states(policy.model, batch)
    assert planned / SLACK == pytest.approx(sum(storage.nbytes() for storage in kept.values()), rel=0.15)


@pytest.mark.parametrize(
    "seconds, text", [(7, "7 s"), (89, "89 s"), (100, "2 min"), (5399, "90 min"), (5400, "1.5 h")]
)
def test_durations(seconds, text):
    assert look._duration(seconds) == text


@pytest.mark.parametrize("count, text", [(2**20, "1 MiB"), (2**30, "1.0 GiB"), (80 * 10**9, "74.5 GiB")])
def test_sizes(count, text):
    assert look._size(count) == text


def test_one_run_in_full():
    rows = dict(
        map(
            tuple,
            look._plan_rows(
                plan(load_config("gemma-2b", (), ["peft.method=lora"]), on="h100", rate_per_hour=3.0)
            ),
        )
    )
    assert rows["parameters"] == "2,506,172,416" and rows["trainable parameters"] == "19,611,648 (0.7765 %)"
    assert rows["method"] == "sft lora r=16" and rows["steps"] == "436 (1 epochs, 436 optimizer updates)"
    assert rows["a step"] == "16 x 1 = 16" and "cost" in rows and rows["memory"].startswith("about ")


def test_parts_that_no_arm_has_are_left_out(capsys):
    assert main(["plan", "--preset", "gemma-2-9b-lora", "--on", "h100"]) == 0
    out = capsys.readouterr().out
    assert "gradients" in out and "critic" not in out and "reference" not in out and "total" in out


def test_what_does_not_fit_is_named_with_what_helps():
    plans = plan_counts(load_config("gemma-2b"), on="h100")[1]
    assert look.too_large(plans).startswith("does not fit: ppo (") and "ppo.critic=head" in look.too_large(
        plans
    )
    assert look.too_large(plan_counts(load_config("gemma-2b"), on="h200")[1]) == ""


def test_the_verb(capsys):
    assert main(["plan", "--preset", "gemma-2b", "--on", "h200", "--gpus", "2", "--rate", "3"]) == 0
    out = capsys.readouterr().out
    assert "19,611,648" in out and "assumed: H200" in out and "on GPUs" in out and "does not fit" not in out
    assert main(["plan", "--preset", "gemma-2b", "--arm", "lora-main", "--on", "h200", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["trainable"] == 19_611_648
    assert main(["plan", "--preset", "gemma-2b", "--on", "h300"]) == 2
    assert main(["plan", "run.threads=1", "--measure", "--on", "h100"]) == 2
    assert "there is no H100 80 GB here" in capsys.readouterr().err


def test_a_path_is_planned_as_it_is_run(tiny_model, monkeypatch, capsys, caplog):
    """`~` is this user's home for each verb, and a path that is not there is the same line for each."""
    monkeypatch.setenv("HOME", str(tiny_model.parent))
    home = f"model.model_name_or_path=~/{tiny_model.name}"
    assert main(["plan", home, "--preset", "nano", "--arm", "full-main", "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)
    assert one["model"] == str(tiny_model)
    assert f"of preset nano were searched for the embedded model, not for {tiny_model}" in caplog.text
    for verb in ("plan", "sft"):
        assert main([verb, "model.model_name_or_path=/no/such", "run.output_dir=/no/run"]) == 2
        assert "/no/such: no such model folder (nor 'nano', nor a Hub id" in capsys.readouterr().err


def test_processes_of_torchrun_share_the_cores_and_the_memory_of_a_cpu(monkeypatch):
    """A core each where nothing is said; batches of 2 x 8 problems; float32 gradients in a ring of two."""
    monkeypatch.setattr("reckoner.devices.allowed_cores", lambda: 2)
    toy = Device("toy", "cpu", 2**40, {"train": [(1.0, 1e9)]}, link=1e8, cores=2)
    alone, two, four = (plan(config_of(), samples=64, measured=toy, gpus=n) for n in (1, 2, 4))
    assert (two.steps, two.tokens, two.available) == (alone.steps, alone.tokens, alone.available // 2)
    assert two.phases["update"] == pytest.approx(alone.phases["update"])  # both cores in both
    assert two.phases["exchange"] == pytest.approx(two.updates * 4 * two.trainable / 1e8)
    assert four.phases["update"] == pytest.approx(two.phases["update"])  # two of them share a core
    assert "1 CPU core for each of 2 processes" in two.assumptions[-1]
    one_thread = plan(config_of("run.threads=1"), samples=64, measured=toy, gpus=2)
    assert one_thread.phases == two.phases
    monkeypatch.setattr("reckoner.devices.allowed_cores", lambda: 4)
    wide = plan(config_of("run.threads=2"), samples=64, measured=toy, gpus=2)
    assert wide.phases["update"] == pytest.approx(two.phases["update"] / 2)


def test_a_process_forked_for_a_core_has_what_an_update_takes_and_passes_are_shared():
    """Full passes where a step has several for each, and those of a large model as a CPU cuts them."""
    rates = {"train": [(1.0, 1e9)]}
    one, two = (Device("toy", "cpu", 2**40, rates, cores=cores) for cores in (1, 2))
    alone, forked = (plan(config_of(), samples=64, measured=where).memory for where in (one, two))
    own = forked.products + forked.gradients + forked.copies + forked.activations + forked.logits
    assert (alone.replicas, forked.replicas) == (0, REPLICA + own)
    assert forked.activations == alone.activations, "2 x 8 problems are a pass of 8 for each"
    large = "model.model_name_or_path=smollm2-135m"
    alone, forked = (plan(config_of(large), samples=64, measured=where).memory for where in (one, two))
    assert forked.activations == pytest.approx(alone.activations / 2, rel=0.01), "half of 2^25 states each"


def test_a_control_is_planned_with_the_operations_of_its_arm():
    """More SFT to the last operation, own right samples to the end of the step that reaches them."""
    found = arms("nano", "study.controls=true")
    grpo, more, own, coin = (found[f"grpo{end}"] for end in ("", "-more-sft", "-rejection", "-coin"))
    assert more.training_flops == pytest.approx(grpo.training_flops)
    assert more.epochs != found["full-main"].epochs
    step = own.training_flops / own.steps
    assert grpo.training_flops <= own.training_flops < grpo.training_flops + step
    assert own.steps < 8 * 24 and coin.steps == grpo.steps == 24
    config = load_config("nano", (), ["study.controls=true"])
    assert plan_counts(config, "grpo-more-sft", on="h100")[1] == [more]


def test_a_map_of_pass_rates_is_planned_where_the_run_draws_it():
    """8 samples of each train problem: 53.4 tokens of prompt once, 81.9 a completion."""
    drawn, named = (
        planned("data.source=nano", f"rollout.{end}", "rollout.pass_rate=[0.1,0.9]", method="grpo")
        for end in ("pass_rate_samples=8", "pass_rate_map=other")
    )
    ratio = drawn.phases["pass_rates"] / drawn.phases["generate"]
    each, step = 53.4 + 8 * 81.9, 53.4 + 8 * 81.9
    assert named.phases.get("pass_rates") is None
    prompts = drawn.steps * 64
    assert ratio == pytest.approx(drawn.problems * each / (prompts * step), rel=1e-6)
    assert drawn.training_flops > named.training_flops


def test_the_numbers_of_problems_are_those_of_the_suite_or_the_file(tmp_path):
    """SVAMP has 700 train problems, of which 100 are dev and 8 serve in prompts, and 300 of test."""
    suite = planned("data.suite=svamp", "data.dev_size=100")
    assert suite.problems == 700 - 100 - 8
    lines = [json.dumps({"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"}) for n in range(60)]
    for name, kept in (("train", lines[:40]), ("test", lines[40:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(kept))
    config = load_config("nano", (), [f"data.path={tmp_path}", "data.dev_size=10"])
    assert problem_counts(**config.problem_source()) == (40, 20)
    assert problem_counts(**load_config("nano").problem_source()) == (7473, 1319)
    assert problem_counts(**load_config("", (), ["data.suite=mgsm/de"]).problem_source())[1] == 250
    ratio = planned("data.suite=svamp", "data.dev_size=100").phases["test"] / planned().phases["test"]
    assert ratio == pytest.approx(300 / 1319, rel=0.2)


def test_the_samples_of_reinforcement_learning_are_planned_for_it_and_its_start_alone():
    """100 problems x 32 samples beside 1,319 greedy answers, whose prompts are read once each."""
    without, found = arms("nano"), arms("nano", "study.pass_k=32")
    drawing = {name for name, one in found.items() if "samples" in one.phases}
    assert drawing == {"full-main", "prompt-0shot-instruction", "ppo", "grpo", "lora-grpo", "grpo-zero"}
    one = found["full-main"]
    # an answer of 81.9 tokens to a prompt of 53.4
    each = {"test": 1319 * (53.4 + 81.9), "samples": 100 * (53.4 + 32 * 81.9)}
    # rel: the LM head reads the drawn tokens alone
    ratio = one.phases["samples"] / one.phases["test"]
    assert ratio == pytest.approx(each["samples"] / each["test"], rel=0.08)
    assert one.seconds == without["full-main"].seconds
