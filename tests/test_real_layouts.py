"""The presets for real models, run on random models of the same architectures at small width, with tokenizers
of their kind.

Every verb that a user of a real model needs: the study with prompting, SFT, LoRA, PPO, GRPO and LoRA GRPO,
then eval and merge, on embedded problems and with the model's own chat template. Each architecture has its
own habits: Gemma folds the instruction into the user's turn, Llama and Qwen have a system role, Qwen has no
BOS.
"""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from reckoner import nano
from reckoner.cli import main
from reckoner.config import load_config
from reckoner.study.arms import choose, plan_study
from reckoner.study.run import run_study

WIDTHS = dict(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=2048,
    initializer_range=0.2,
)
GEMMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' "
    "else m.role) + '\n' + m.content "
    "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt "
    "%}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA_CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' "
    "+ m.content + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' "
    "}}{% endif %}"
)
QWEN_CHAT = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (("<bos>", "<eos>", "<pad>"), ("<start_of_turn>", "<end_of_turn>"), GEMMA_CHAT)
LLAMA = (
    ("<|begin_of_text|>", "<|end_of_text|>", None),
    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    LLAMA_CHAT,
)
QWEN = ((None, "<|im_end|>", "<|endoftext|>"), ("<|im_start|>",), QWEN_CHAT)
LAYOUTS = {
    "gemma": (GemmaConfig, {}, GEMMA),
    "gemma2": (Gemma2Config, {"sliding_window": 64, "query_pre_attn_scalar": 16}, GEMMA),
    "gemma3": (
        Gemma3TextConfig,
        {
            "sliding_window": 64,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        GEMMA,
    ),
    "llama": (LlamaConfig, {}, LLAMA),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}, QWEN),
}
SMALL = [
    "model.device=cpu",
    "model.dtype=float32",
    "data.source=nano",
    "data.dev_size=8",
    "data.max_train_samples=16",
    "data.max_test_samples=4",
    "eval.max_new_tokens=0",
    "eval.dev_samples=2",
    "study.prompt_search=2",
    "rollout.patience=0",  # a random model solves nothing, and no run is to end for that
    "run.threads=1",
]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Make the folder of a layout: a random model and a tokenizer trained on a few problems, in transformers'
    format."""

    def make(layout: str):
        kind, changes, ((bos, eos, pad), more, chat) = LAYOUTS[layout]
        special = [token for token in (pad, eos, bos, *more) if token]
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        inner.decoder = decoders.ByteLevel()
        texts = [
            f"{problem.question}\n{problem.solution}" for problem in nano.problems("train", "main")[:200]
        ]
        trainer = trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=inner,
            bos_token=bos,
            eos_token=eos,
            pad_token=pad,
            extra_special_tokens=list(more),
        )
        tokenizer.chat_template = chat
        ids = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(layout) / "model"
        model = AutoModelForCausalLM.from_config(kind(vocab_size=len(tokenizer), **WIDTHS, **changes, **ids))
        with torch.no_grad():  # most answers end soon, so that the search for a limit is short
            model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 8
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


def study(preset: str, folder, out, arms: list[str], *more: str) -> dict[str, dict]:
    """Run arms of a preset on `folder`; returns the records of study.json by arm."""
    rollouts = [
        f"study.arms.{arm}.set.rollout.{key}"
        for arm in ("ppo", "grpo", "lora-grpo")
        for key in ("num_mini_batches=2", "max_steps=2")
    ]
    rollouts += [
        "study.arms.ppo.set.rollout.num_prompts=8",
        *(f"study.arms.{arm}.set.rollout.num_prompts=4" for arm in ("grpo", "lora-grpo")),
    ]
    rollouts += [f"study.arms.{arm}.set.rollout.num_generations=2" for arm in ("grpo", "lora-grpo")]
    present = [
        text for text in rollouts if preset != "gemma-2-9b-lora" or text.startswith("study.arms.lora-grpo")
    ]
    present = [
        text for text in present if preset != "gemma-2-2b" or not text.startswith("study.arms.lora-grpo")
    ]
    config = load_config(
        preset, [], [f"model.model_name_or_path={folder}", f"run.output_dir={out}", *SMALL, *present, *more]
    )
    planned = plan_study(config)
    run_study(config, planned, choose(planned, arms), f"reckon study --preset {preset}")
    return {arm["name"]: arm for arm in json.loads((out / "study.json").read_text())["arms"]}


def check_run(run, trained: str) -> None:
    """The run is finished, was evaluated on test, asked in the model's own chat format, and trained what it
    should."""
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished" and [
        e["n"] for e in summary["evaluations"] if e["split"] == "test"
    ] == [4]
    prompt = json.loads((run / "prompt.json").read_text())
    assert prompt["chat_template"] and prompt["name"].startswith("chat-")
    if trained:
        share = summary["training"]["trainable_parameters"] / summary["training"]["parameters"]
        assert share == 1 if trained == "full" else share < 0.5
        assert summary["training"]["steps"] > 0 and summary["training"]["seconds"] > 0


@pytest.mark.slow
def test_every_arm_of_gemma_2b(folder_of, tmp_path, capsys):
    folder, out = folder_of("gemma"), tmp_path / "study"
    arms = ["prompt-1shot-instruction", "lora-main", "ppo", "grpo", "lora-grpo"]
    found = study("gemma-2b", folder, out, arms)
    ran = [*arms, "full-main"]
    assert {name: found[name]["state"] for name in ran} == dict.fromkeys(ran, "done"), {
        n: found[n]["reason"] for n in ran
    }
    for name in ran:
        check_run(
            out / name, "" if name.startswith("prompt") else "lora" if name.startswith("lora") else "full"
        )
    assert len(json.loads((out / "prompt-1shot-instruction" / "prompt.json").read_text())["shots"]) == 1

    merged = tmp_path / "merged"
    assert (
        main(["merge", str(out / "lora-grpo"), str(merged)]) == 0
        and "greedy text is the same" in capsys.readouterr().out
    )
    plain, tokenizer = AutoModelForCausalLM.from_pretrained(merged), AutoTokenizer.from_pretrained(merged)
    assert plain.config.model_type == "gemma" and tokenizer.chat_template == GEMMA_CHAT
    settings = [*SMALL, "prompt.chat_template=on", f"run.output_dir={tmp_path / 'eval'}"]
    assert main(["eval", str(merged), "--preset", "gemma-2b", *settings, "eval.split=test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    "preset, layout, arms",
    [("gemma-2-2b", "gemma2", ["ppo", "grpo"]), ("gemma-2-9b-lora", "gemma2", ["lora-grpo"])],
)
def test_presets_of_gemma_2(folder_of, tmp_path, preset, layout, arms):
    found = study(preset, folder_of(layout), tmp_path / "study", arms)
    ran = [name for name, arm in found.items() if arm["state"] != "waiting"]
    assert set(arms) < set(ran) and {found[name]["state"] for name in ran} == {"done"}, [
        found[n]["reason"] for n in ran
    ]
    for name in ran:
        check_run(tmp_path / "study" / name, "lora" if name.startswith("lora") else "full")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["gemma3", "llama", "qwen2"])
def test_other_layouts_on_the_preset_of_gemma_2b(folder_of, tmp_path, layout):
    arms = ["prompt-0shot-instruction", "ppo", "lora-grpo"]
    found = study("gemma-2b", folder_of(layout), tmp_path / "study", arms)
    ran = [*arms, "full-main"]
    assert {name: found[name]["state"] for name in ran} == dict.fromkeys(ran, "done"), {
        n: found[n]["reason"] for n in ran
    }
    for name in ran:
        check_run(
            tmp_path / "study" / name,
            "" if name.startswith("prompt") else "lora" if name.startswith("lora") else "full",
        )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_prompt_begins_and_the_answer_ends_as_the_layout_wants(folder_of, layout):
    from reckoner.config import ModelConfig, PeftConfig
    from reckoner.models.policy import load_policy

    policy = load_policy(ModelConfig(str(folder_of(layout)), device="cpu"), PeftConfig(), train=False)
    (bos, eos, _), more, _ = LAYOUTS[layout][2]
    ids = policy.encode_prompt([{"role": "user", "content": "1+1?"}])
    assert (
        ids
        == policy.tokenizer.apply_chat_template(
            [{"role": "user", "content": "1+1?"}], add_generation_prompt=True
        )["input_ids"]
    )
    assert ids.count(policy.tokenizer.bos_token_id) == (1 if bos else 0)
    end = policy.encode_example([{"role": "user", "content": "1+1?"}], "2")[1][-1]
    assert policy.tokenizer.convert_ids_to_tokens(end) == {
        "gemma": "<end_of_turn>",
        "llama": "<|eot_id|>",
        "qwen2": eos,
    }.get(layout, "<end_of_turn>")
    assert {end, policy.tokenizer.eos_token_id} == set(policy.stop_ids)
