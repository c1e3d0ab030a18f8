"""LoRA through peft (Hu et al., 2021): add, load, merge with proof. Adapters off is the reference policy.

QLoRA (Dettmers et al., 2023) is LoRA over weights that `reckoner.models.policy` loads in 4 bits; nothing differs here.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from torch import nn

from reckoner.config import ModelConfig, PeftConfig
from reckoner.errors import InputError
from reckoner.models.foreign import Foreign
from reckoner.models.headers import check_header
from reckoner.runs.safe_paths import check_output, publish, writing

if TYPE_CHECKING:
    from reckoner.models.policy import Policy

MERGE_TOLERANCE = 1e-5
"""Largest difference between merged and adapted logits in fp32, relative to the largest logit where that is above 1."""


def add_lora(model: nn.Module, peft: PeftConfig, base: str, revision: str = "") -> PeftModel:
    """Wrap `model`, which plain peft finds as `base` (a folder or Hub id), with a new LoRA whose B is zero; it and the biases that train with it are fp32, all else is frozen.

    Raises `InputError` for targets that the model does not have.
    """
    check_targets(model, peft.lora_target_modules)
    config = LoraConfig(
        r=peft.lora_r,
        lora_alpha=peft.lora_alpha,
        lora_dropout=peft.lora_dropout,
        target_modules=list(peft.lora_target_modules),
        bias=peft.lora_bias,
        task_type="CAUSAL_LM",
    )
    with _peft_of_today():
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    config.base_model_name_or_path, config.revision = base, revision or None
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


@contextmanager
def _peft_of_today() -> Iterator[None]:
    """Hide two warnings: peft 0.21 asks transformers for a property by its old name, and what it says of missing keys is an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
        yield


def check_targets(model: nn.Module, targets: list[str]) -> None:
    """Every target must name a linear layer of `model`. Raises `InputError` naming those that exist."""
    linear = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if _adaptable(module)} - {
        "lm_head"
    }
    if not targets:
        raise InputError(f"peft.lora_target_modules is empty; this model has {', '.join(sorted(linear))}")
    if unknown := [name for name in targets if name not in linear]:
        raise InputError(
            f"peft.lora_target_modules: {', '.join(unknown)} not in this model, which has {', '.join(sorted(linear))}"
        )


def _adaptable(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def load_adapter(model: nn.Module, folder: Path) -> PeftModel:
    """Put the saved adapter of `folder` on `model`, frozen. Raises `InputError` where its tensors are not exactly those expected, or not finite."""
    stored = check_header(folder / "adapter_model.safetensors")
    with Foreign(f"{folder}: the adapter does not fit its base"), _peft_of_today():
        adapted = PeftModel.from_pretrained(model, folder)
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wanted = {name: list(tensor.shape) for name, tensor in own.items()}
    # peft adds the weights of an embedding or LM head that it adapts, under this name
    whole = {
        name: list(t.shape) for name, t in adapted.state_dict().items() if name.endswith("base_layer.weight")
    }
    wanted |= {name: shape for name, shape in whole.items() if name in stored}
    if stored != wanted:
        wrong = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
        raise InputError(
            f"{folder}: {len(wrong)} tensors of the adapter are missing, extra or of another shape, first {wrong[0]}"
        )
    if broken := [name for name, tensor in own.items() if not tensor.isfinite().all()]:
        raise InputError(f"{folder}: {broken[0]} holds values that are not finite")
    return adapted


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as peft does, but byte for byte the same each time, and without peft's empty model card."""
    model.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def adapters_off(policy: Policy) -> Iterator[None]:
    """The policy without its adapter, which is the reference policy of a LoRA run. Full weights have none: a bug, not a no-op."""
    assert isinstance(policy.model, PeftModel), "only a policy with an adapter has a reference inside"
    with policy.model.disable_adapter():
        yield


def merge(run: Path, out: Path, dtype: str = "auto") -> str:
    """Write the model of `run` with its adapter merged into the weights as a plain transformers folder.

    Before anything is written, merged and adapted logits must agree within `MERGE_TOLERANCE` in fp32 and greedy
    decoding must give the same tokens. The weights are then rounded to `dtype`, by default that of the base's config.json. Returns one line that says so; raises `InputError` where it does not hold.
    """
    from reckoner.models.policy import load_policy

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not an empty folder; give another one")
    check_output(out / "config.json" if out.is_dir() else out)
    policy = load_policy(ModelConfig(model_name_or_path=str(run), dtype="float32"), PeftConfig(), train=False)
    if not isinstance(policy.model, PeftModel):
        raise InputError(f"{run} has no adapter: its model/ folder is complete as it is")
    probe = _probe(policy)
    before, before_text = _logits(policy.model, probe), _greedy(policy, probe)
    policy.model = policy.model.merge_and_unload()
    after, after_text = _logits(policy.model, probe), _greedy(policy, probe)
    difference = (before - after).abs().max().item()
    allowed = MERGE_TOLERANCE * max(1.0, before.abs().max().item())
    if not difference <= allowed or before_text != after_text:
        raise InputError(
            f"{run}: merging changes logits by {difference:.1e} (allowed {allowed:.1e}); nothing was written"
        )
    kept = policy.model.config.dtype if dtype == "auto" else getattr(torch, dtype)
    policy.model.to(kept)
    temporary = out.with_name(f".tmp-{out.name}")
    with writing(out):
        shutil.rmtree(temporary, ignore_errors=True)
        policy.save(temporary)
        publish(temporary, out)
    return f"{out}: merged, {str(kept).removeprefix('torch.')}; logits differ by {difference:.1e} at most, greedy text is the same"


def _probe(policy: Policy) -> torch.Tensor:
    """A prompt as ids [1, T]."""
    text = "Question: Anna has 12 pens and buys 3 boxes of 4 pens. How many pens does she have?\nAnswer:"
    return torch.tensor([policy.encode_prompt(text)], device=policy.device)


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
