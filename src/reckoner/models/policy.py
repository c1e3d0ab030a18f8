"""A policy: weights, tokenizer and perhaps an adapter, on a device, in a stated precision. It knows no tasks.

`load_policy` is the one place where device, precision and attention are chosen, and `Policy.note` says what
was chosen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from reckoner import ranks
from reckoner.config import ModelConfig, PeftConfig
from reckoner.errors import InputError
from reckoner.models import nf4, sharding
from reckoner.models.adapters import add_lora, load_adapter, save_adapter
from reckoner.models.chat import Encoder, check_template
from reckoner.models.foreign import Foreign, limit_numbers, quiet
from reckoner.models.sources import TOKENIZER, Source, resolve


@dataclass(frozen=True)
class Precision:
    """Where and in which dtype to compute; `weights` is the dtype of full weights; `note` says why."""

    device: torch.device
    dtype: torch.dtype
    weights: torch.dtype
    note: str


@dataclass
class Policy(Encoder):
    """A language model with its tokenizer. `dtype` is that of the computation; `stop_ids` end a completion.

    `base` is the model that it started from, without its adapter. `nf4` is the dtype of NF4 weights below the
    adapter, empty for plain ones.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    name: str
    device: torch.device
    dtype: torch.dtype
    stop_ids: tuple[int, ...]
    note: str
    base: Source
    nf4: str = ""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids` without special tokens, with its white space unchanged."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast to `dtype` over fp32 master weights; none where the weights have that dtype already."""
        mixed = any(p.dtype != self.dtype for p in self.model.parameters())
        return torch.autocast(self.device.type, self.dtype) if mixed else contextlib.nullcontext()

    @property
    def parameters_total(self) -> int:
        """All parameters, adapter included; tied ones once."""
        return sum(map(nf4.count, self.model.parameters()))

    @property
    def parameters_trainable(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)

    def save(self, folder: Path) -> None:
        """Write weights (or only the adapter) and tokenizer so that plain transformers and peft load them."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            if isinstance(self.model, PeftModel):
                save_adapter(self.model, folder)
                base = {"name": self.base.reference, "sha256": self.base.digest()}
                base |= {"tokenizer": self.base.digest(TOKENIZER)}
                base |= {"nf4": self.nf4} if self.nf4 else {}
                (folder / "base.json").write_text(json.dumps(base) + "\n", encoding="utf-8")
            else:
                self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        for_transformers_4(folder / "tokenizer_config.json")
        mode = (folder / "tokenizer_config.json").stat().st_mode  # safetensors writes for the owner alone
        for path in folder.glob("*.safetensors"):
            path.chmod(mode)


def load_encoder(model: ModelConfig) -> Encoder:
    """The tokenizer of `model` without its weights. Raises `InputError` as `load_policy` does."""
    source = resolve(model.model_name_or_path, model.revision)
    with quiet():
        return Encoder(load_tokenizer(source))


def for_transformers_4(path: Path) -> None:
    """Replace names in a saved tokenizer_config.json that transformers 4 does not know; 5 reads both."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = settings.pop("extra_special_tokens")
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_policy(model: ModelConfig, peft: PeftConfig, *, train: bool, shard: bool = False) -> Policy:
    """Load "nano", a folder, a run folder or a Hub id as a policy.

    For training, full weights are fp32 masters (or as `model.train_dtype` says). With `peft` a new fp32
    adapter is put on frozen weights. An adapter of the source is merged first, so that without its adapter
    the policy is the model that training started from. For inference the source's adapter stays an adapter.
    With `shard` the weights go to the device divided over ranks. Raises `InputError` for anything that is not
    a sound, plain model.
    """
    if shard:
        sharding.check(peft)
    source = resolve(model.model_name_or_path, model.revision)
    precision = choose_precision(model, full=train and peft.method == "none")
    if qlora := train and peft.method == "qlora":
        nf4.check(precision.device)
    device = torch.device("cpu") if shard else precision.device  # whose memory may not hold all weights
    with quiet():
        with Foreign(f"{source.folder}/config.json: no architecture that the installed transformers knows"):
            config = AutoConfig.from_pretrained(source.folder, local_files_only=True)
        attention = _attention(config, model.attn_implementation)
        network = _load_weights(source.folder, config, precision, attention)
        network, rounding = _adapted(network, source, device)
        base, tokenizer = source.below or source, load_tokenizer(source)
        if train:
            base, network, rounding = source, _merged(network), ""
            if peft.method == "none":
                network.requires_grad_(True)
            else:
                if qlora:
                    rounding = nf4.quantize(network, precision.dtype, precision.device)
                network = add_lora(network.to(device), peft, source.loadable, model.revision)
    network.to(device)
    if train and model.gradient_checkpointing:
        _checkpoint_activations(network)
    if shard:
        sharding.shard(network, precision.dtype, precision.device)
    stops = _stop_ids(network, Encoder(tokenizer))
    note = f"{precision.note}{', over NF4 weights' if rounding else ''}; attention {attention}"
    policy = Policy(
        network, tokenizer, source.name, precision.device, precision.dtype, stops, note, base, rounding
    )
    _try(policy)
    network.train(train)
    return policy


def _try(policy: Policy) -> None:
    """Run a short prompt. Raises `InputError` where the model fails, or lacks a token of its tokenizer."""
    known, added = len(policy.model.get_input_embeddings().weight), policy.tokenizer.added_tokens_decoder
    highest = max(policy.tokenizer.vocab_size - 1, *(i for i, token in added.items() if not token.special), 0)
    if highest >= known:
        text = policy.tokenizer.convert_ids_to_tokens(highest)
        raise InputError(
            f"{policy.name}: the tokenizer has a token {highest:,} ({text!r}) and the model {known:,} "
            "embeddings: it is another model's. Put the one that belongs to these weights into the folder"
        )
    ids = policy.encode_prompt("1 + 1 = 2\n")
    if policy.tokenizer.chat_template:
        with contextlib.suppress(InputError):  # of a template that fails: `make_prompt` refuses chats with it
            ids += policy.encode_prompt([{"role": "user", "content": "1 + 1?"}])
    ids = torch.tensor([[*ids, policy.turn_end, policy.tokenizer.pad_token_id]], device=policy.device)
    what = f"{policy.name}: the model does not compute with its own tokenizer"
    policy.model.eval()
    with Foreign(what), torch.no_grad(), policy.autocast():
        logits = policy.model(input_ids=ids).logits
    if not logits.isfinite().all():
        raise InputError(f"{policy.name}: the model gives values that are not finite")


def choose_precision(model: ModelConfig, *, full: bool) -> Precision:
    """Device and dtypes for `model`; `full` when all weights train, which keeps them in `model.train_dtype`.

    auto: the GPU if there is one; bfloat16 on a GPU that has it, else float32. Raises `InputError` for a
    missing GPU, and for trained weights of lower precision than the computation.
    """
    cuda = torch.cuda.is_available()
    if model.device == "cuda" and not cuda:
        raise InputError(
            "model.device=cuda, but torch sees no GPU; set model.device=auto or install a CUDA build of torch"
        )
    device = torch.device("cuda" if cuda and model.device != "cpu" else "cpu")
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    dtype = torch.bfloat16 if fast else torch.float32
    why = "the GPU has it" if fast else f"exact on a {device.type.upper()}"
    if model.dtype != "auto":
        dtype, why = getattr(torch, model.dtype), f"model.dtype={model.dtype}"
    weights = getattr(torch, model.train_dtype) if full else dtype
    if weights.itemsize < dtype.itemsize:
        chosen = model.train_dtype
        raise InputError(
            f"model.train_dtype={chosen} is less precise than the computation; set model.dtype={chosen} too"
        )
    note = f"{device.type}, {str(dtype).removeprefix('torch.')} ({why})"
    if weights != dtype:
        note += f", {str(weights).removeprefix('torch.')} master weights"
    return Precision(device, dtype, weights, note)


def fingerprint(model: torch.nn.Module) -> dict[str, str]:
    """sha256 of each parameter's bytes, by name; of a sharded one this rank's part."""
    own = ((name, ranks.own_part(p.detach())) for name, p in model.named_parameters())
    flat = ((name, p.reshape(-1).view(torch.uint8)) for name, p in own)
    return {name: hashlib.sha256(numbers.cpu().numpy()).hexdigest() for name, numbers in flat}


def _adapted(network: Any, source: Source, device: torch.device) -> tuple[Any, str]:
    """The model with the adapters of `source`, and the `Policy.nf4` of the last."""
    rounding = ""
    for folder in source.adapters:
        network = _merged(network)
        if rounding := nf4.dtype_of(folder):
            nf4.round_weights(network, rounding, device)
        network = load_adapter(network, folder)
    return network, rounding


def _attention(config: Any, wanted: str) -> str:
    """sdpa cannot soft-cap attention scores (Gemma 2), so such models take eager attention."""
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if wanted == "sdpa" and capped else wanted


def _load_weights(folder: Path, config: Any, precision: Precision, attention: str) -> Any:
    """The model on the CPU. Every tensor comes from the folder and is finite, else `InputError`."""
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    with Foreign(f"{folder}: the weights cannot be loaded"), limit_numbers(size):
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=precision.weights,
        )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if wrong := sorted(map(str, report[kind])):
            what = f"{len(wrong)} {kind.replace('_', ' ')}, first {wrong[0]}"
            raise InputError(f"{folder}: the weights do not fit config.json: {what}")
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # padding is masked; where it is the EOS as well, that token learns too
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise InputError(f"{folder}: {name} holds values that are not finite")
    return model


_loaded: dict[str, PreTrainedTokenizerBase] = {}
"""Tokenizers by the digest of their files. `tokenizers` keeps the words that each loaded one has split, and
never frees them (huggingface/tokenizers#2028): a process that loads one for each arm would grow without end.
"""


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The checked tokenizer of `source.folder`; those of equal files share all but their plain attributes."""
    files = source.digest((*TOKENIZER, "config.json"))
    if files not in _loaded:
        _loaded[files] = _read_tokenizer(source.folder)
    return copy(_loaded[files])


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    with Foreign(f"{folder}: the tokenizer cannot be loaded"):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer.decode(tokenizer("1 + 1 = 2\n", add_special_tokens=False)["input_ids"])
        special = [tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id]
    if special[0] is None:
        raise InputError(f"{folder}: the tokenizer has no eos_token, so that a completion could never end")
    if not all(token is None or isinstance(token, int) for token in special):
        raise InputError(
            f"{folder}: bos_token, eos_token and pad_token of the tokenizer must be one token each"
        )
    check_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _checkpoint_activations(network: Any) -> None:
    """Recompute activations in the backward pass, non-reentrant; transformers renamed the method in 5.2x."""
    plain = network.get_base_model() if isinstance(network, PeftModel) else network
    if hasattr(plain, "activation_checkpointing_enable"):
        plain.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    else:
        plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _merged(network: Any) -> Any:
    """The plain model, with the adapter it may have on added to its weights."""
    with Foreign("the adapter cannot be merged"):
        return network.merge_and_unload(safe_merge=True) if isinstance(network, PeftModel) else network


def _stop_ids(network: Any, encoder: Encoder) -> tuple[int, ...]:
    """EOS of tokenizer and generation config, and the end of a turn, ascending."""
    stated = network.generation_config.eos_token_id if network.generation_config else None
    stated = stated if isinstance(stated, list) else [] if stated is None else [stated]
    if not all(type(token) is int and abs(token) < 2**31 for token in stated):
        what = f"is {str(stated)[:100]}, which are no token ids"
        raise InputError(f"eos_token_id of the model's generation_config.json {what}")
    return tuple(sorted({encoder.tokenizer.eos_token_id, encoder.turn_end, *stated}))
