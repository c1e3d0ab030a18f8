"""An adapter merged into the weights below it, with a proof that the model stays the same."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from reckoner.config import ModelConfig, PeftConfig
from reckoner.errors import InputError
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.safe_paths import check_output, publish, refuse_link, writing

MERGE_TOLERANCE = 1e-4
"""Largest difference of merged and adapted fp32 logits, relative to the largest logit where above 1.

Rounding alone gave 2e-5 in a random Gemma 4 on a processor with AVX2, and less elsewhere.
"""


def merge(run: Path, out: Path, dtype: str = "auto") -> str:
    """Write the model of `run` with its adapter merged into the weights as a plain transformers folder.

    Before anything is written, merged and adapted logits must agree within `MERGE_TOLERANCE` in fp32, and
    greedy decoding must give the same tokens. The weights are then rounded to `dtype`, by default that of the
    base's config.json. Returns one line that says so; raises `InputError` where they do not agree.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; give another one")
    check_output(out / "config.json" if out.is_dir() else out)
    temporary = out.with_name(f".tmp-{out.name}")
    refuse_link(temporary)
    policy = load_policy(ModelConfig(model_name_or_path=str(run), dtype="float32"), PeftConfig(), train=False)
    if not isinstance(policy.model, PeftModel):
        raise InputError(f"{run} has no adapter: its model/ folder is complete as it is")
    text = "Question: Anna has 12 pens and buys 3 boxes of 4 pens. How many pens does she have?\nAnswer:"
    probe = torch.tensor([policy.encode_prompt(text)], device=policy.device)
    before, before_text = _logits(policy.model, probe), _greedy(policy, probe)
    policy.model = policy.model.merge_and_unload()
    after, after_text = _logits(policy.model, probe), _greedy(policy, probe)
    difference = (before - after).abs().max().item()
    allowed = MERGE_TOLERANCE * max(1.0, before.abs().max().item())
    if not difference <= allowed or before_text != after_text:
        change = f"merging changes logits by {difference:.1e} (allowed {allowed:.1e})"
        raise InputError(f"{run}: {change}; nothing was written")
    kept = policy.model.config.dtype if dtype == "auto" else getattr(torch, dtype)
    policy.model.to(kept)
    with writing(out):
        shutil.rmtree(temporary, ignore_errors=True)
        policy.save(temporary)
        publish(temporary, out)
    proof = f"logits differ by {difference:.1e} at most, greedy text is the same"
    base = " into the NF4 weights it was trained over" if policy.nf4 else ""
    return f"{out}: merged{base}, {str(kept).removeprefix('torch.')}; {proof}"


def plain_weights(policy: Policy) -> dict[str, Tensor]:
    """All weights by their names without an adapter, which is added to them, in the dtype of the computation.

    The policy stays as it is: what is merged is a copy of one layer at a time.
    """
    plain = policy.model.get_base_model() if isinstance(policy.model, PeftModel) else policy.model
    weights: dict[str, Tensor] = {}
    merged, within = plain, ""
    for name, parameter in plain.named_parameters():
        owner, adapted, last = name.partition(".base_layer.")
        if adapted:
            if owner != within:
                within, merged = owner, copy.deepcopy(plain.get_submodule(owner))
                merged.merge(safe_merge=True)
            weights[f"{owner}.{last}"] = merged.get_base_layer().get_parameter(last)
        elif "lora_" not in name:
            weights[name] = parameter
    return {name: weight.detach().to(policy.dtype) for name, weight in weights.items()}


def _logits(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits.float()


def _greedy(policy: Policy, ids: torch.Tensor) -> list[int]:
    with torch.no_grad():
        return policy.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=48,
            do_sample=False,
            pad_token_id=policy.tokenizer.pad_token_id,
        )[0].tolist()
