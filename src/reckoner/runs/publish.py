"""A run's model on the Hub: what would be sent, whether it may be, and the sending. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from reckoner.config.secrets import holds_secret
from reckoner.errors import InputError, Stopped
from reckoner.runs.folder import read_config

NANO_LICENCE = "mit"
"""Of the embedded model, which comes with this package."""
TEXT = {".json", ".yaml", ".md", ".jinja", ".txt"}
LARGEST_TEXT = 50_000_000


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a push sends: files of the model by name with their bytes, and the licence of the base."""

    folder: Path
    files: dict[str, int]
    licence: str


def parcel(run: Path, licence: str = "") -> Parcel:
    """What `push` would send of a run; `licence` is used where the base does not tell its own.

    Raises `InputError` for a run without a model, a licence that forbids it or is not known, or a secret.
    """
    folder = run / "model" if (run / "model").is_dir() else run
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"{run}: holds no model (no model/*.safetensors). Name a finished run")
    known = base_licence(str(run))
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
    return Parcel(folder, {name: size for name, size in files.items() if not name.startswith(".")}, found)


def base_licence(model: str) -> str:
    """The licence that a model or the base of a run tells: in its card, on this machine or on the Hub."""
    for name in _ancestors(model):
        if name == "nano":
            return NANO_LICENCE
        if Path(name).is_dir():
            for card in (Path(name) / "README.md", Path(name) / "model" / "README.md"):
                if told := _told(card):
                    return told
            continue
        from huggingface_hub import model_info
        from huggingface_hub.errors import HfHubHTTPError

        try:
            data = model_info(name).card_data
        except (HfHubHTTPError, OSError, ValueError):
            return ""
        return str(getattr(data, "license", None) or "").lower()
    return ""


def _ancestors(model: str) -> Iterator[str]:
    """A run, what it was trained from, and so on to the base."""
    seen: set[str] = set()
    while model and model not in seen:
        seen.add(model)
        yield model
        saved = Path(model) / "config.yaml"
        model = (
            str(read_config(saved).get("model", {}).get("model_name_or_path", "")) if saved.is_file() else ""
        )


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
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    operations = [CommitOperationAdd(name, sent.folder / name) for name in sent.files if name != "README.md"]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    try:
        url = api.create_repo(repo, private=True, exist_ok=True)
        api.create_commit(repo, operations, commit_message="Model and card, by reckoner")
    except (HfHubHTTPError, OSError) as error:
        line = str(error).strip().split("\n")[0]
        raise Stopped(f"{repo}: {line}. Check the name, the network and HF_TOKEN, then push again") from error
    return str(url)
