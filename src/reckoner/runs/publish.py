"""A run's model on the Hub: what would be sent, whether it may be, and the sending. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from reckoner.config.secrets import holds_secret
from reckoner.errors import InputError, Stopped, hub_errors
from reckoner.runs.folder import read_config
from reckoner.runs.records import read_json
from reckoner.runs.safe_paths import HUB_ID

KNOWN = {"nano": ("", "mit"), "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Hub id and licence of the models that this package gives a short name; the embedded one is on no Hub."""
TEXT = {".json", ".yaml", ".md", ".jinja", ".txt"}
LARGEST_TEXT = 50_000_000
OVER_ADAPTER = (
    "Its adapter was trained over another adapter, and plain peft loads no such pair; "
    "`reckon merge` makes one model of both."
)


@dataclass(frozen=True, slots=True)
class Base:
    """What a run began with, before all training: Hub id, else 'nano' or a file's name; licence, if told."""

    name: str
    licence: str
    note: str = ""
    """What whoever loads the run should know."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a push sends: files of the model by name with their bytes, and the base with its licence."""

    folder: Path
    files: dict[str, int]
    base: Base


def parcel(run: Path, repo: str, licence: str = "") -> Parcel:
    """What `push` would send of a run; `licence` is used where the base does not tell its own.

    Raises `InputError` for a `repo` that is not OWNER/NAME as the Hub takes it, a run without a model, an
    adapter over what only this machine has, a licence that forbids it or is not known, or a secret.
    """
    if not HUB_ID.fullmatch(repo) or re.search(r"--|\.\.|\.git$|[-.](/|$)", repo):
        raise InputError(f"{repo!r} cannot be a repository of the Hub. Give OWNER/NAME, as me/my-model")
    folder = run / "model" if (run / "model").is_dir() else run
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"{run}: holds no model (no model/*.safetensors). Name a finished run that trained")
    adapted = read_json(folder / "adapter_config.json", missing={}).get("base_model_name_or_path")
    if adapted is not None and not _hub_id(str(adapted)):
        remedy = f"Merge it first: reckon merge {run} FOLDER, and send that: hf upload REPO FOLDER"
        raise InputError(f"{run}: its adapter needs {adapted}, which nobody else has. {remedy}")
    base = base_of(run, ask=True)
    known = base.licence
    if known and licence and known != licence:
        raise InputError(f"--licence {licence}: the base model has {known}, which goes with it")
    found = known or licence
    if not found:
        raise InputError(
            f"{run}: the base model does not tell its licence. Look it up and give --licence NAME"
        )
    if "-nd" in found or found in ("unlicensed", "proprietary"):
        raise InputError(f"{run}: the licence of the base model ({found}) forbids passing on a changed model")
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    for name, size in files.items():
        if Path(name).suffix in TEXT and size < LARGEST_TEXT:
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            if holds_secret(text):
                raise InputError(
                    f"{folder / name}: holds what looks like a secret. Take it out before a push"
                )
    sent = {name: size for name, size in files.items() if not name.startswith(".")}
    return Parcel(folder, sent, replace(base, licence=found))


def base_of(run: Path, ask: bool = False) -> Base:
    """The base of a run, with the licence that a card tells: of what it was trained from, or of the base.

    The card of a Hub model is read in this machine's cache, and on the Hub only where `ask` is set.
    """
    *above, last = _ancestors(str(run))
    folders = [Path(name) for name in (*above, last) if Path(name).is_dir()]
    told = filter(None, (_told(one / card) for one in folders for card in ("README.md", "model/README.md")))
    hub, licence = KNOWN.get(last, (_hub_id(last), ""))
    licence = next(told, licence) or (_hub_licence(hub, ask) if hub else "")
    below = _adapted(run / "model") or _adapted(run)
    return Base(hub or Path(last).name, licence, OVER_ADAPTER if below and _adapted(Path(below)) else "")


def _adapted(folder: Path) -> str:
    """What the adapter in a folder was trained over, by its note or else as plain peft finds it; else ''."""
    config = read_json(folder / "adapter_config.json", missing={})
    known = read_json(folder / "base.json", missing={}) if config else {}
    return str(known.get("name") or config.get("base_model_name_or_path") or "")


def _hub_id(name: str) -> str:
    """`name` where it is a Hub id and nothing on this machine, else ''."""
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else ""


def _hub_licence(name: str, ask: bool) -> str:
    from huggingface_hub import model_info, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "README.md")
    told = _told(Path(cached)) if isinstance(cached, str) else ""
    if told or not ask:
        return told
    try:
        data = model_info(name).card_data
    except hub_errors():
        return ""
    return str(getattr(data, "license", None) or "").lower()


def _ancestors(model: str) -> Iterator[str]:
    """A run, what it was trained from, and so on to the base."""
    seen: set[str] = set()
    while model and model not in seen:
        seen.add(model)
        yield model
        saved = Path(model) / "config.yaml"
        if saved.is_file():
            model = str(read_config(saved).get("model", {}).get("model_name_or_path", ""))
        else:
            model = _adapted(Path(model))


def _told(card: Path) -> str:
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if not text.startswith("---\n"):
        return ""
    head = yaml.safe_load(text[4:].partition("\n---")[0])
    return str(head.get("license", "")).lower() if isinstance(head, dict) else ""


def push(sent: Parcel, card: str, repo: str) -> str:
    """Create a private repository if there is none and send the files with their card; returns its address.

    The token comes from the environment or from `hf auth login`. `Stopped` where the Hub cannot be reached
    or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    operations = [CommitOperationAdd(name, sent.folder / name) for name in sent.files if name != "README.md"]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Model and card, by reckoner")
    except hub_errors() as error:
        line = str(error).strip().split("\n")[0]
        raise Stopped(f"{repo}: {line}. Check the name, the network and HF_TOKEN, then push again") from error
    return str(url)
