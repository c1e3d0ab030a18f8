from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from reckoner.config import PeftConfig
from reckoner.engine.batches import Example
from reckoner.errors import InputError
from reckoner.models.policy import load_policy
from reckoner.training import rollouts
from reckoner.training.rollouts import Reference, Rollout, iter_microbatches, mini_batches, prompt_indices


def episode(completion, logprobs, reward=0.0, finish="stop"):
    example = Example("p", (2, 5), tuple(completion))
    return SimpleNamespace(
        example=example, logprobs=tuple(logprobs), reward=reward, completion=SimpleNamespace(finish=finish)
    )


ROLLOUT = [episode([7, 8, 1], [-1.0, -2.0, -3.0], 1.0), episode([9], [-4.0], 0.0, "length"), episode([], [])]


def test_a_rollout_by_hand():
    rollout = Rollout.of(ROLLOUT)
    assert rollout.logprobs.tolist() == [[-1, -2, -3], [-4, 0, 0], [0, 0, 0]]
    assert rollout.mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert rollout.rewards.tolist() == [1, 0, 0] and rollout.truncated.tolist() == [False, True, False]
    assert rollout.learnable(False) is rollout.mask
    assert rollout.learnable(True).tolist() == [[True] * 3, [False] * 3, [False] * 3]
    assert Rollout.of(ROLLOUT[2:]).mask.tolist() == [[False]], (
        "a step in which nothing was written has one column"
    )


@given(st.integers(1, 60), st.integers(0, 5), st.integers(0, 200), st.integers(0, 130))
def test_the_stream_of_prompts_is_one_stream(problems, seed, first, count):
    """However it is cut into steps, the same prompts come, and each stretch of an epoch holds every problem
    once.
    """
    found = prompt_indices(problems, seed, first, count)
    assert found == [prompt_indices(problems, seed, at, 1)[0] for at in range(first, first + count)]
    whole = prompt_indices(problems, seed, 0, 3 * problems)
    assert [sorted(whole[at : at + problems]) for at in range(0, 3 * problems, problems)] == [
        list(range(problems))
    ] * 3


@given(st.lists(st.integers(0, 99), unique=True, max_size=40), st.integers(1, 6))
def test_mini_batches_are_a_partition(rows, count):
    parts = mini_batches(rows, count, 0, 1)
    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert not rows or max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == min(count, len(rows))
    assert parts == mini_batches(rows, count, 0, 1)


def test_mini_batches_differ_by_seed_step_and_pass():
    found = [mini_batches(range(32), 2, *key) for key in ((0, 1, 0), (0, 2, 0), (1, 1, 0), (0, 1, 1))]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_passes_put_every_token_in_its_place():
    policy = SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0), device="cpu", model=None)
    rollout = Rollout.of(ROLLOUT[::-1])
    ids = torch.zeros_like(rollout.mask, dtype=torch.long)
    for batch, place in iter_microbatches(policy, rollout, [2, 1], 6):
        ids[place] = batch.targets
    assert ids.tolist() == [[0, 0, 0], [9, 0, 0], [7, 8, 1]]


@pytest.fixture
def policy(rl_config):
    return load_policy(rl_config.model, rl_config.peft, train=True)


def test_dropout_is_off_and_checkpointing_stays_on(rl_config):
    rl_config.model.gradient_checkpointing = True
    policy = load_policy(rl_config.model, PeftConfig(method="lora", lora_dropout=0.5), train=True)
    rollouts.without_dropout(policy.model)
    training = [type(module).__name__ for module in policy.model.modules() if module.training]
    assert set(training) == {"GemmaDecoderLayer"}


@pytest.fixture
def with_biases(tmp_path, tiny_model):
    """A random model whose attention has biases, with the tokenizer of `tiny_model`."""
    folder = shutil.copytree(tiny_model, tmp_path / "biased")
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen2Config(vocab_size=vocabulary, num_key_value_heads=1, tie_word_embeddings=True, **sizes)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("peft, bias", [("none", "none"), ("lora", "none"), ("lora", "all")])
def test_the_reference_is_the_policy_before_training(peft, bias, rl_config, with_biases):
    rl_config.model.model_name_or_path = str(with_biases)
    rl_config.peft.method, rl_config.peft.lora_bias = peft, bias
    policy = load_policy(rl_config.model, rl_config.peft, train=True)
    policy.model.eval()
    reference, rollout = Reference(policy, rl_config, 0.1), Rollout.of(ROLLOUT)
    before = rollouts.score(policy, policy.model, rollout, [0, 1], 1.0, 100)
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(0.1)
    after = rollouts.score(policy, policy.model, rollout, [0, 1], 1.0, 100)
    found, scored = reference.logprobs(rollout, 100)
    assert (reference.copy is None) == (peft == "lora" and bias == "none")
    assert (
        torch.equal(scored, rollout.mask)
        and torch.allclose(found, before)
        and not torch.allclose(found, after)
    )


def test_the_kl_is_measured_on_some_completions_or_none(rl_config, policy):
    many = Rollout.of([episode([7, 1], [-1.0, -2.0])] * 10)
    for samples, rows in ((0, 0), (1, 1), (5, 5), (64, 10)):
        rl_config.rollout.kl_samples = samples
        reference = Reference(policy, rl_config, 0.0)
        found, scored = reference.logprobs(many, 100)
        assert int(scored.any(-1).sum()) == rows and int((found != 0).any(-1).sum()) == rows
    assert Reference(policy, rl_config, 0.1).logprobs(many, 100)[1].all()


def start_of(tiny_model, folder, prompt):
    """What a run folder needs for another run to start from it."""
    folder.mkdir()
    shutil.copytree(tiny_model, folder / "model")
    (folder / "config.yaml").write_text(json.dumps({"prompt": prompt}))
    (folder / "prompt.json").write_text(
        json.dumps({"name": "0shot", "hash": "", "rendered": "<bos>", "token_ids": [2]})
    )
    return str(folder)


def test_a_run_asks_as_its_start_was_asked(rl_config, policy, tiny_model, tmp_path):
    prompt = rl_config.to_dict()["prompt"]
    rl_config.model.model_name_or_path = start_of(tiny_model, tmp_path / "good", prompt)
    rollouts.check_start(rl_config, policy)
    rl_config.model.model_name_or_path = start_of(tiny_model, tmp_path / "other", {**prompt, "shots": 1})
    with pytest.raises(
        InputError,
        match="other was trained with prompt.shots=1, this command has 0. Use the same prompt settings",
    ):
        rollouts.check_start(rl_config, policy)


def test_a_start_with_another_tokenizer_is_refused(rl_config, policy, tiny_model, tmp_path):
    folder = tmp_path / "sft"
    rl_config.model.model_name_or_path = start_of(tiny_model, folder, rl_config.to_dict()["prompt"])
    seen = {"name": "0shot", "hash": "", "rendered": "<bos>Question", "token_ids": [2, 9, 9]}
    (folder / "prompt.json").write_text(json.dumps(seen))
    with pytest.raises(InputError, match="has another tokenizer than"):
        rollouts.check_start(rl_config, policy)
