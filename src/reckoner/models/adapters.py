"""LoRA through peft (Hu et al., 2021): add, load, save, and switch off, which gives the reference policy.

QLoRA (Dettmers et al., 2023) is LoRA over weights that `reckoner.models.nf4` holds in 4 bits; nothing differs
here. Variants: rsLoRA (Kalajdzievski 2023), DoRA (Liu 2024) and PiSSA (Meng 2024). PiSSA takes what its
adapter begins with out of the weights below. It is saved as the plain LoRA of twice the rank that gives the
same model on the original weights: B A - B_0 A_0 = [B, -B_0] [A; A_0].
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from reckoner.config import PeftConfig
from reckoner.errors import InputError
from reckoner.models.foreign import Foreign
from reckoner.models.sources import check_header


def add_lora(model: nn.Module, peft: PeftConfig, base: str, revision: str = "") -> PeftModel:
    """Wrap `model`, which plain peft finds as `base` (a folder or Hub id), with a new LoRA whose B is zero.

    The adapter and the biases that train with it are fp32; all else is frozen. Raises `InputError` for
    targets that the model does not have.
    """
    check_targets(model, peft.lora_target_modules)
    if peft.method == "qlora" and peft.variant in ("dora", "pissa"):
        raise InputError(
            f"peft.variant={peft.variant} needs weights that are not in 4 bits: use peft.method=lora"
        )
    config = LoraConfig(
        r=peft.lora_r,
        lora_alpha=peft.lora_alpha,
        lora_dropout=peft.lora_dropout,
        target_modules=list(peft.lora_target_modules),
        bias=peft.lora_bias,
        use_rslora=peft.variant == "rslora",
        use_dora=peft.variant == "dora",
        init_lora_weights="pissa" if peft.variant == "pissa" else True,
        layers_to_transform=chosen_layers(model, peft.layers) or None,
        task_type="CAUSAL_LM",
    )
    with _known_peft_warnings_hidden():
        adapted = get_peft_model(model, config, autocast_adapter_dtype=True)
    config.base_model_name_or_path, config.revision = base, revision or None
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if peft.variant == "pissa":
        adapted.adapter_start = {
            name: parameter.detach().clone()
            for name, parameter in adapted.named_parameters()
            if "lora_" in name
        }
    return adapted


def chosen_layers(model: nn.Module, layers: list[str]) -> list[int]:
    """The numbers of `peft.layers`. Raises `InputError` for one that the model does not have."""
    count = model.config.get_text_config().num_hidden_layers
    if wrong := [layer for layer in layers if not (layer.isdecimal() and int(layer) < count)]:
        raise InputError(f"peft.layers: {wrong[0]} is no layer of this model, which has 0 to {count - 1}")
    return sorted({int(layer) for layer in layers})


@contextmanager
def _known_peft_warnings_hidden() -> Iterator[None]:
    """Hide peft 0.21's warnings about a renamed property, and about missing keys, which are an error here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Found missing adapter keys", category=UserWarning)
        yield


def check_targets(model: nn.Module, targets: list[str]) -> None:
    """Every target must name a linear layer of `model`. Raises `InputError` naming those that exist."""
    adaptable = (
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    )
    linear = {*adaptable} - {"lm_head"}
    existing = ", ".join(sorted(linear))
    if not targets:
        raise InputError(f"peft.lora_target_modules is empty; this model has {existing}")
    if unknown := ", ".join(name for name in targets if name not in linear):
        raise InputError(f"peft.lora_target_modules: {unknown} not in this model. Name some of {existing}")


def load_adapter(model: nn.Module, folder: Path) -> PeftModel:
    """Put the saved adapter of `folder` on `model`, frozen.

    Raises `InputError` where its tensors are not exactly the expected ones, or not finite.
    """
    stored = check_header(folder / "adapter_model.safetensors")
    with Foreign(f"{folder}: the adapter does not fit its base"), _known_peft_warnings_hidden():
        adapted = PeftModel.from_pretrained(model, folder)
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    wanted = {name: list(tensor.shape) for name, tensor in own.items()}
    for name, tensor in adapted.state_dict().items():
        # peft adds the weights of an embedding or LM head that it adapts, under this name
        if name.endswith("base_layer.weight") and name in stored:
            wanted[name] = list(tensor.shape)
    if stored != wanted:
        wrong = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
        wrong_ones = f"{len(wrong)} tensors of the adapter are missing, extra or of another shape"
        raise InputError(f"{folder}: {wrong_ones}, first {wrong[0]}")
    if broken := [name for name, tensor in own.items() if not tensor.isfinite().all()]:
        raise InputError(f"{folder}: {broken[0]} holds values that are not finite")
    return adapted


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as peft does, but with the same bytes each time and without an empty model card."""
    model.save_pretrained(folder, save_embedding_layers=False)
    start = getattr(model, "adapter_start", None)
    if start:
        save_file(_on_original_weights(model, start), folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"].sort()
    if start:
        config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"], "init_lora_weights": True}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _on_original_weights(model: PeftModel, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The adapter's tensors, by their saved names, as those of the LoRA of twice the rank (see above)."""
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    for name, begun in start.items():
        key = name.replace(".default", "")
        own = tensors[key]
        joined = (own, begun) if "lora_A" in name else (own, -begun)
        tensors[key] = torch.cat(joined, 0 if "lora_A" in name else 1).contiguous()
    return tensors


@contextmanager
def adapters_off(policy: Any) -> Iterator[None]:
    """The policy without its adapter, the reference policy of a LoRA run; for full weights it is a bug."""
    assert isinstance(policy.model, PeftModel), "only a policy with an adapter has a reference inside"
    with policy.model.disable_adapter():
        yield
