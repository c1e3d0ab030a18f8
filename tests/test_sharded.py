"""Two processes of torchrun hold half of the weights each: the numbers and the files of one process."""

import json
import math
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from reckoner.cli import main
from reckoner.config import PeftConfig
from reckoner.errors import InputError
from reckoner.models import sharding

from .test_ranks import assert_alike, lines_of, script, two_ranks, write_sums, write_teacher

RUNS = """
import importlib, sys
from pathlib import Path
from reckoner.config import load_config
from reckoner.errors import InputError, Stopped
from reckoner.runs.folder import silent
from reckoner.tasks.rewards import Reward

ALIKE = ["prompt.chat_template=off", "data.dev_size=6", "eval.dev_samples=3", "eval.max_new_tokens=16"]
ALIKE += ["train.learning_rate=1e-3", "train.per_device_train_batch_size=1", "train.eval_steps=100"]
ALIKE += ["train.gradient_accumulation_steps=3", "run.save_steps=4", "run.threads=1"]
DRAWN = ["rollout.num_prompts=3", "rollout.num_generations=4", "rollout.max_steps=3", "rollout.patience=0"]
DRAWN += ["rollout.max_completion_length=16", "train.per_device_train_batch_size=2"]
METHODS = {
    "sft": ["sft", "train.num_train_epochs=1.25"],
    "lora": ["sft", "train.num_train_epochs=1.25", "peft.method=lora", "model.gradient_checkpointing=true"],
    "averaged": ["sft", "train.num_train_epochs=0.15", "train.optim=schedule_free_adamw",
                 "train.lr_scheduler_type=constant"],
    "bfloat16": ["sft", "train.num_train_epochs=0.3", "model.dtype=bfloat16", "eval.engine=transformers",
                 "model.gradient_checkpointing=true"],
    "grpo": ["grpo", *DRAWN, "grpo.kl_coef=0.1"],
    "gspo": ["grpo", *DRAWN, "peft.method=lora", "grpo.objective=gspo"],
    "ppo": ["ppo", *DRAWN, "ppo.critic=trunk", "ppo.kl_coef=0.1"],
    "dpo": ["dpo", *DRAWN],
    "rejection": ["rejection", *DRAWN, "run.save_steps=1"],
    "distill": ["distill", *DRAWN, "run.save_steps=1"],
    "ppo-head": ["ppo", *DRAWN, "ppo.critic=head", "ppo.critic_learning_rate=1e-2"],
}

def by_text(answer, weights):
    total = float(sum(map(ord, answer.text)) % 2)
    return Reward(total, {"correct": total})

def stop(phase, done, total, note):
    if phase == "train" and done == (7 if total > 3 else 2):
        raise Stopped("here")

def train(root, name, folder, shard, on_progress=silent, *more):
    method, *settings = METHODS[name]
    where = [f"model.model_name_or_path={root / 'model'}", f"data.path={root / 'train.jsonl'}"]
    where += [f"run.output_dir={folder}", f"run.shard={shard}", f"distill.teacher={root / 'teacher'}"]
    config = load_config("", [], [*ALIKE, *where, *settings, *more])
    rewarded = {} if method == "sft" else {"reward_fn": by_text}
    importlib.import_module(f"reckoner.algorithms.{method}").train(config, on_progress, **rewarded)

def begin(root, name, folder, shard):
    try:
        train(root, name, folder, shard, stop)
    except Stopped:
        pass
"""

SHARDED = """
import math
import torch
from torch.nn.modules.module import register_module_forward_hook
from reckoner import ranks
from reckoner.config import ModelConfig, PeftConfig
from reckoner.models.policy import load_policy

root = Path(sys.argv[1])
policy = load_policy(ModelConfig(str(root / "model")), PeftConfig(), train=True, shard=True)
own = sum(ranks.own_part(p).untyped_storage().nbytes() for p in policy.model.parameters())
assert 0.49 < own / 4 / policy.parameters_total < 0.52, own
for method, name in (("sft", "sft"), ("sft", "handed"), ("distill", "distill")):
    begin(root, method, root / "two" / name, True)
for name in METHODS:
    train(root, name, root / "two" / name, True)
train(root, "sft", root / "taken", True)
try:
    train(root, "sft", root / "muon", True, silent, "train.optim=muon")
except InputError as error:
    print(error, flush=True)

def spoil(name, folder, hook, on_progress=silent, *more):
    handle = register_module_forward_hook(hook)
    try:
        train(root, name, root / "two" / folder, True, on_progress, *more)
    except Stopped as error:
        print(error, flush=True)
    handle.remove()

seen = []

def notice(module, *_):
    if isinstance(module, torch.nn.Linear) and not seen:
        seen.append(module)

def ruin(phase, done, total, note):
    if ranks.rank() == 1 and (phase, done) == ("train", 2):
        ranks.own_part(seen[0].weight.data)[0, 0] = math.nan

def worsen(module, _, output):
    if ranks.rank() == 1 and isinstance(module, torch.nn.Linear) and output.requires_grad:
        output.register_hook(lambda gradient: gradient * math.inf)

spoil("sft", "ruined", notice, ruin, "train.eval_steps=2")
spoil("sft", "worsened", worsen)
"""


METHODS = ["sft", "lora", "averaged", "grpo", "gspo", "dpo", "rejection", "distill", "ppo", "ppo-head"]


@pytest.fixture(scope="module")
def one():
    """The functions of RUNS in this process."""
    functions = {}
    exec(RUNS, functions)
    return functions


@pytest.fixture(scope="module")
def root(one, tiny_model, tmp_path_factory):
    """The same runs by two ranks that share the weights and by one; each continues one of the other."""
    root = tmp_path_factory.mktemp("sharded")
    (root / "model").symlink_to(tiny_model)
    write_teacher(root / "teacher", tiny_model)
    write_sums(root / "train.jsonl", "Ann", 60)
    one["begin"](root, "sft", root / "taken", False)
    code, out, errors = two_ranks(script(root, RUNS + SHARDED), root)
    assert code == 0, errors
    assert out.count("run.shard=true does not go with train.optim=muon: set train.optim=adamw") == 2
    (root / "out.txt").write_text(out)
    for name in one["METHODS"]:
        one["train"](root, name, root / "one" / name, False)
    one["train"](root, "sft", root / "two" / "handed", False)
    return root


@pytest.mark.parametrize("name", METHODS)
def test_two_ranks_that_share_the_weights_learn_what_one_process_learns(root, name):
    one, two = (lines_of(root / where / name / "metrics.jsonl") for where in ("one", "two"))
    steps = sum((line.get("grad_norm") or 0) > 0 for line in one)
    assert steps == (20 if name in ("sft", "lora") else 3)
    assert_alike(one, two, 1e-5)


def test_bfloat16_is_gathered_and_computed_in_halves(root):
    one, two = (lines_of(root / where / "bfloat16" / "metrics.jsonl") for where in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert math.isclose(a.get("loss", 0), b.get("loss", 0), rel_tol=0.01)
    assert one[-2]["loss"] < one[1]["loss"]
    weights = load_file(root / "two" / "bfloat16" / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


@pytest.mark.parametrize("folder", ["two/sft", "two/handed", "taken"])
def test_a_killed_run_goes_on_with_two_ranks_or_with_one_process(root, folder):
    assert_alike(lines_of(root / "one/sft/metrics.jsonl"), lines_of(root / folder / "metrics.jsonl"), 1e-5)


@pytest.mark.parametrize("folder", ["two/sft", "two/handed", "taken"])
def test_the_model_is_an_ordinary_folder_with_the_weights_of_one_process(root, folder):
    expected, found = (
        AutoModelForCausalLM.from_pretrained(root / name / "model").state_dict()
        for name in ("one/sft", folder)
    )
    assert all(torch.allclose(tensor, found[name], atol=1e-5) for name, tensor in expected.items())
    names = sorted(path.name for path in (root / folder / "model").iterdir())
    assert names == sorted(path.name for path in (root / "one/sft/model").iterdir())


def test_an_adapter_and_checkpoints_have_the_form_of_one_process(root):
    for path in ("lora/model/adapter_model.safetensors", *sorted_checkpoints(root / "one", "ppo")):
        expected, found = (load_file(root / where / path) for where in ("one", "two"))
        assert expected.keys() == found.keys() and len(found) > 3
        for name, tensor in expected.items():
            assert torch.allclose(tensor, found[name], rtol=1e-3, atol=1e-5), name


def sorted_checkpoints(folder, name):
    newest = max((folder / name / "checkpoints").iterdir())
    return [path.relative_to(folder) for path in sorted(newest.glob("*.safetensors"))]


def test_both_ranks_end_alike_for_what_only_one_of_them_can_see(root):
    said = (root / "out.txt").read_text()
    assert said.count("q_proj.weight holds values that are not finite: step 2 is not saved") == 2
    norm = "step 1: the gradient norm is nan: the step was not applied; lower the learning rate or check"
    assert said.count(norm) == 2
    norms = json.loads((root / "two/worsened/nonfinite.json").read_text())["gradient_norms"]
    assert norms["policy/model.layers.0.self_attn.q_proj.weight"] == "nan"


def test_the_backend_line_says_that_the_modules_compute(root):
    line = json.loads((root / "two/sft/environment.json").read_text())["backend"]
    assert line.startswith("training: the model's own modules (slower: sharded weights) · sampling: native")


def test_a_rank_that_is_lost_inside_a_pass_is_one_line(monkeypatch, capsys):
    def lose(*_):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:24512")

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("reckoner.cli.train._method_config", lose)
    assert main(["sft", "--preset", "smoke"]) == 75
    line = "rank 0 of 2 lost another one. The same command goes on from the last checkpoint"
    assert capsys.readouterr().err == f"reckon: {line}\n"


def test_without_torchrun_nothing_can_be_divided(tiny_config):
    tiny_config.run.shard = True
    with pytest.raises(InputError, match=r"run.shard=true divides weights .* torchrun --nproc-per-node N"):
        import_module("reckoner.algorithms.sft").train(tiny_config)


@pytest.mark.parametrize("peft", [{"method": "qlora"}, {"method": "lora", "variant": "pissa"}])
def test_adapters_that_change_the_weights_below_are_refused(peft, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError, match=r"run.shard=true does not go with peft\.(method=qlora|variant=pissa)"
    ):
        sharding.check(PeftConfig(**peft))
