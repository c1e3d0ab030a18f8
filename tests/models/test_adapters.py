"""LoRA against its definition, through a round trip, and merged with proof."""

from __future__ import annotations

import json
import os
import warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine.generate import Sampling, generate
from reckoner.errors import InputError
from reckoner.models.adapters import adapters_off
from reckoner.models.merge import merge, plain_weights
from reckoner.models.policy import load_policy
from reckoner.models.sources import TOKENIZER, resolve, verified_embedded

LORA = PeftConfig(method="lora", lora_r=4, lora_alpha=8, lora_dropout=0.0)
IDS = torch.tensor([[2, 30, 40, 50, 60, 7]])


def logits(policy) -> torch.Tensor:
    policy.model.eval()
    with torch.no_grad():
        return policy.model(input_ids=IDS).logits


def trained(model: str, seed: int = 0):
    """A LoRA policy whose B is no longer zero."""
    torch.manual_seed(seed)
    policy = load_policy(ModelConfig(model), LORA, train=True)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.05)
    return policy


@pytest.fixture
def run(tiny_model, tmp_path):
    policy = trained(str(tiny_model))
    policy.save(tmp_path / "run" / "model")
    return policy, tmp_path / "run"


def test_lora_is_alpha_over_r_times_b_a(tiny_model):
    policy = trained(str(tiny_model))
    plain = load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False)
    assert not torch.allclose(logits(policy), logits(plain), atol=1e-4)
    weights = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, p in plain.model.named_parameters():
            stem = "base_model.model." + name.removesuffix(".weight")
            if f"{stem}.lora_A.default.weight" in weights:
                p += (
                    8
                    / 4
                    * weights[f"{stem}.lora_B.default.weight"]
                    @ weights[f"{stem}.lora_A.default.weight"]
                )
    torch.testing.assert_close(logits(policy), logits(plain), atol=1e-5, rtol=0)


def test_a_new_adapter_changes_nothing_and_off_is_the_base(tiny_model):
    fresh = load_policy(ModelConfig(str(tiny_model)), LORA, train=True)
    plain = logits(load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False))
    assert torch.equal(logits(fresh), plain)
    policy = trained(str(tiny_model))
    with adapters_off(policy):
        assert torch.equal(logits(policy), plain)
    assert not torch.equal(logits(policy), plain)


def test_count_of_parameters_is_r_times_in_plus_out(tiny_model):
    policy = load_policy(ModelConfig(str(tiny_model)), LORA, train=True)
    # hidden 32, 2 heads of 16, 1 key-value head, intermediate 64, 2 layers: q, k, v, o, gate, up, down
    assert policy.parameters_trainable == 2 * 4 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 64))


@pytest.mark.parametrize(
    "targets, message",
    [(["q_proj", "w_proj"], "w_proj not in this model. Name some of down_proj, gate_proj"), ([], "is empty")],
)
def test_unknown_targets_name_those_that_exist(tiny_model, targets, message):
    with pytest.raises(InputError, match=message):
        load_policy(
            ModelConfig(str(tiny_model)), PeftConfig(method="lora", lora_target_modules=targets), train=True
        )


def test_adapters_are_fp32_over_bf16_weights(tiny_model):
    policy = load_policy(ModelConfig(str(tiny_model), dtype="bfloat16", device="cpu"), LORA, train=True)
    assert {p.dtype for n, p in policy.model.named_parameters() if "lora_" in n} == {torch.float32}
    assert {p.dtype for n, p in policy.model.named_parameters() if "lora_" not in n} == {torch.bfloat16}


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning"
)  # peft 0.21 with transformers 5.23
def test_a_saved_adapter_comes_back_bit_for_bit_also_with_plain_peft(run, tiny_model):
    policy, folder = run
    again = load_policy(ModelConfig(str(folder)), PeftConfig(), train=False)
    assert torch.equal(logits(again), logits(policy))
    noted = json.loads((folder / "model" / "base.json").read_text())
    base = resolve(str(tiny_model))
    assert noted["sha256"] == base.digest() and noted["tokenizer"] == base.digest(TOKENIZER)
    again.save(folder.parent / "twin")
    assert (folder.parent / "twin" / "base.json").read_text() == (folder / "model" / "base.json").read_text()
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), folder / "model"
    ).eval()
    with torch.no_grad():
        assert torch.equal(plain(input_ids=IDS).logits, logits(policy))
    config = json.loads((folder / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model) and config["target_modules"] == sorted(
        config["target_modules"]
    )


QUESTIONS = [
    f"Question: Anna has {n} pens and buys {n + 3} more. How many pens has she?\nAnswer:"
    for n in range(5, 17)
]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("base", ["nano", "run"])
def test_plain_peft_finds_the_base_of_an_adapter_and_writes_the_same_texts(tmp_path, base):
    """By its defaults alone, dtype included; the Hub has a "nano" of its own, and a run folder is no model
    folder."""
    if base == "run":
        load_policy(ModelConfig("nano"), PeftConfig(), train=True).save(tmp_path / "base" / "model")
    policy = trained("nano" if base == "nano" else str(tmp_path / "base"))
    policy.save(tmp_path / "run" / "model")
    known = json.loads((tmp_path / "run" / "model" / "base.json").read_text())["name"]
    assert known == ("nano" if base == "nano" else str(tmp_path / "base" / "model"))
    again = load_policy(ModelConfig(str(tmp_path / "run")), PeftConfig(), train=False)
    assert torch.equal(logits(again), logits(policy))
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    for question in QUESTIONS:
        ids = tokenizer(question, return_tensors="pt")["input_ids"]
        ours = policy.model.generate(input_ids=ids, max_new_tokens=24, do_sample=False)
        assert torch.equal(plain.generate(input_ids=ids, max_new_tokens=24, do_sample=False), ours)


@pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning", "ignore:Model has .tie_word:UserWarning"
)
@pytest.mark.parametrize(
    "targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"], ["embed_tokens", "lm_head"]], ids=str
)
def test_an_adapter_of_embedding_or_head_is_loaded_and_generates_with_the_models_own_modules(
    tiny_model, tmp_path, targets
):
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, lora_alpha=64, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft has several about tied weights
        plain = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config).eval()
        plain.save_pretrained(tmp_path / "a")
        policy = load_policy(ModelConfig(str(tmp_path / "a")), PeftConfig(), train=False)
    with torch.no_grad():
        assert torch.equal(logits(policy), plain(input_ids=IDS).logits)
    wanted = plain.generate(input_ids=IDS, max_new_tokens=12, do_sample=False, eos_token_id=None)[
        0, IDS.shape[1] :
    ]
    ((sample,),) = generate(policy, IDS.tolist(), Sampling(12, stop_ids=()), 1, "auto")
    assert list(sample.ids) == wanted.tolist()


def test_saved_weights_have_the_mode_of_other_files_and_words_that_transformers_4_knows(tmp_path):
    before = os.umask(0o022)
    try:
        trained("nano").save(tmp_path / "a")
        load_policy(ModelConfig("nano"), PeftConfig(), train=True).save(tmp_path / "b")
    finally:
        os.umask(before)
    for path in [*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o644, path
    for folder in (tmp_path / "a", verified_embedded()):
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert settings["additional_special_tokens"] == ["<start_of_turn>", "<end_of_turn>"]
        assert "extra_special_tokens" not in settings


@pytest.mark.parametrize("dtype, kept", [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_merged_weights_have_the_dtype_of_the_base_or_that_asked_for(run, tmp_path, dtype, kept):
    assert f"merged, {kept}; logits differ" in merge(run[1], tmp_path / "out", dtype)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == kept
    assert {str(t.dtype) for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        f"torch.{kept}"
    }


def test_training_goes_on_from_an_adapter_as_full_weights_or_with_a_new_one(run, tmp_path):
    policy, folder = run
    full = load_policy(ModelConfig(str(folder)), PeftConfig(), train=True)
    assert not isinstance(full.model, PeftModel) and full.parameters_trainable == full.parameters_total
    torch.testing.assert_close(logits(full), logits(policy), atol=1e-5, rtol=0)
    second = trained(str(folder), seed=1)
    with adapters_off(second):
        assert torch.equal(logits(second), logits(full))
    second.save(tmp_path / "second" / "model")
    again = load_policy(ModelConfig(str(tmp_path / "second")), PeftConfig(), train=False)
    assert torch.equal(logits(again), logits(second))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_plain_peft_loads_no_other_model_for_an_adapter_over_an_adapter(run, tmp_path):
    """It would put both on the plain base without a word; merged they are one model, which it loads."""
    second = trained(str(run[1]), seed=1)
    second.save(tmp_path / "second" / "model")
    again = load_policy(ModelConfig(str(tmp_path / "second")), PeftConfig(), train=False)
    again.save(tmp_path / "twin" / "model")
    for folder in ("second", "twin"):
        with pytest.raises(OSError, match="itself an adapter: make one model of both with reckon merge"):
            AutoPeftModelForCausalLM.from_pretrained(tmp_path / folder / "model")
        ours = load_policy(ModelConfig(str(tmp_path / folder)), PeftConfig(), train=False)
        assert torch.equal(logits(ours), logits(second))
    merge(tmp_path / "second", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=IDS).logits, logits(second), atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_an_adapter_with_other_tensors_is_an_error(run, change):
    path = run[1] / "model" / "adapter_model.safetensors"
    tensors = load_file(path)
    name = sorted(tensors)[0]
    match change:
        case "missing":
            del tensors[name]
        case "extra":
            tensors[name.replace("layers.0", "layers.7")] = tensors[name].clone()
        case "shape":
            tensors[name] = tensors[name][:-1].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match="adapter"):
        load_policy(ModelConfig(str(run[1])), PeftConfig(), train=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_adapter_that_is_not_finite_is_refused(run, value):
    path = run[1] / "model" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[3]][1, 0] = value
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lora_B\.weight holds values that are not finite"):
        load_policy(ModelConfig(str(run[1])), PeftConfig(), train=False)


@pytest.mark.parametrize(
    "text", ['"lora_alpha": NaN', '"lora_alpha": Infinity', '"alpha_pattern": {"q_proj": NaN}']
)
def test_a_setting_of_an_adapter_that_is_not_finite_is_refused(run, text):
    path = run[1] / "model" / "adapter_config.json"
    path.write_text(path.read_text().rstrip().removesuffix("}") + f", {text}}}")
    with pytest.raises(InputError, match=r"adapter_config\.json: .* is no finite number"):
        load_policy(ModelConfig(str(run[1])), PeftConfig(), train=False)


def test_merged_equals_adapted_and_loads_with_plain_transformers(run, tmp_path):
    policy, folder = run
    line = merge(folder, tmp_path / "merged")
    assert line.startswith(str(tmp_path / "merged")) and "greedy text is the same" in line
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, logits(policy), atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="is not an empty folder"):
        merge(folder, tmp_path / "merged")
    with pytest.raises(InputError, match="has no adapter"):
        merge(tmp_path / "merged", tmp_path / "other")


VARIANTS = ("lora", "rslora", "dora", "pissa")


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_starts_as_the_base_and_survives_saving_and_merging(variant, tiny_model, tmp_path):
    """Trained a little, saved, loaded again and merged, it is the same model; plain peft reads it too."""
    torch.manual_seed(0)
    peft = PeftConfig(method="lora", lora_r=4, lora_alpha=8, variant=variant)
    policy = load_policy(ModelConfig(str(tiny_model)), peft, train=True)
    plain = load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False)
    torch.testing.assert_close(logits(policy), logits(plain), atol=2e-5, rtol=0)
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(0.02 * torch.randn_like(p))
    changed = logits(policy)
    assert not torch.allclose(changed, logits(plain), atol=1e-3)
    policy.save(tmp_path / "run" / "model")
    loaded = load_policy(ModelConfig(str(tmp_path / "run")), PeftConfig(), train=False)
    torch.testing.assert_close(logits(loaded), changed, atol=2e-5, rtol=0)
    merge(tmp_path / "run", tmp_path / "merged")
    merged = load_policy(ModelConfig(str(tmp_path / "merged")), PeftConfig(), train=False)
    torch.testing.assert_close(logits(merged), changed, atol=2e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_engine_draws_from_each_variant_as_its_modules_do(variant, tiny_model):
    torch.manual_seed(0)
    policy = load_policy(
        ModelConfig(str(tiny_model)), PeftConfig(method="lora", lora_r=4, variant=variant), train=True
    )
    with torch.no_grad():
        for p in policy.model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    sampling = Sampling(max_new_tokens=12)
    texts = [
        [tuple(sample.ids) for (sample,) in generate(policy, IDS.tolist(), sampling, engine=engine)]
        for engine in ("auto", "transformers")
    ]
    assert texts[0] == texts[1]


def test_rslora_scales_by_the_root_of_the_rank(tiny_model):
    policy = load_policy(
        ModelConfig(str(tiny_model)),
        PeftConfig(method="lora", lora_r=4, lora_alpha=8, variant="rslora"),
        train=True,
    )
    scales = {m.scaling["default"] for m in policy.model.modules() if hasattr(m, "lora_A")}
    assert scales == {8 / 4**0.5}


def test_pissa_begins_with_the_largest_singular_values(tiny_model):
    """B A is the best approximation of rank 4 of the original weight."""
    peft = PeftConfig(method="lora", lora_r=4, lora_alpha=4, variant="pissa", lora_target_modules=["q_proj"])
    policy = load_policy(ModelConfig(str(tiny_model)), peft, train=True)
    plain = load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False)
    weight = dict(plain.model.named_parameters())["model.layers.1.self_attn.q_proj.weight"]
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    parts = dict(policy.model.named_parameters())
    product = parts[f"{stem}.lora_B.default.weight"] @ parts[f"{stem}.lora_A.default.weight"]
    u, s, v = torch.linalg.svd(weight)
    torch.testing.assert_close(product, (u[:, :4] * s[:4]) @ v[:4], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(parts[f"{stem}.base_layer.weight"] + product, weight, atol=1e-6, rtol=0)


def test_chosen_layers_alone_get_adapters(tiny_model):
    peft = PeftConfig(method="lora", layers=["1"])
    policy = load_policy(ModelConfig(str(tiny_model)), peft, train=True)
    names = [name for name, p in policy.model.named_parameters() if p.requires_grad]
    assert names and all(".layers.1." in name for name in names)
    with pytest.raises(InputError, match="peft.layers: 2 is no layer of this model, which has 0 to 1"):
        load_policy(ModelConfig(str(tiny_model)), PeftConfig(method="lora", layers=["2"]), train=True)


@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_plain_weights_compute_what_the_adapted_policy_computes(variant, tiny_model):
    """By the names of a transformers folder; the policy itself does not change."""
    peft = PeftConfig(method="lora", variant=variant)
    policy = load_policy(ModelConfig(str(tiny_model)), peft, train=True)
    with torch.no_grad():
        for name, p in policy.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.05)
    before, weights = logits(policy), plain_weights(policy)
    plain = load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False)
    assert not torch.allclose(logits(plain), before, atol=1e-3)
    missing, unexpected = plain.model.load_state_dict(weights, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}  # tied
    assert torch.allclose(logits(plain), before, atol=1e-5)
    assert torch.equal(logits(policy), before)
