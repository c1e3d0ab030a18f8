"""What verbs share: the options that give a configuration, and the sentence that answers a flag typed out of habit.

@verbs.command()
def sft(settings: Settings = None, preset: Preset = "", files: Files = None, dry_run: DryRun = False) -> None:
    config = read_config(preset, files, settings)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reckoner.config import Config

Settings = Annotated[
    list[str] | None, typer.Argument(metavar="section.key=value", help="settings, later wins")
]
Preset = Annotated[
    str, typer.Option("--preset", metavar="NAME", help="settings to start from; nano where no model is named")
]
Files = Annotated[
    list[Path] | None,
    typer.Option("--config", metavar="FILE", help="YAML file of settings; repeatable, later wins"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print what would run, and stop")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]

MODEL_KEY = "model.model_name_or_path="


def read_config(preset: str, files: Sequence[Path] | None, settings: Sequence[str] | None) -> Config:
    """The configuration that a command line asks for; raises `InputError`.

    Without `--preset` and `--config` it starts from the preset `nano`, except where a model is named: the embedded
    model's learning rate would wreck any other one.
    """
    from reckoner.config import load_config

    files, settings = files or [], settings or []
    if not preset and not files and not any(text.startswith(MODEL_KEY) for text in settings):
        preset = "nano"
    return load_config(preset, files, settings)


def flag_hint(flag: str, arguments: Sequence[str]) -> str:
    """How to write `--learning-rate 1e-5`, `--train.learning_rate=1e-5` or `--epochs 3` here; empty where no setting is like it."""
    import dataclasses

    from reckoner.config import Config

    keys = [
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        if section.name != "preset"
        for field in dataclasses.fields(section.default_factory)
    ]
    wanted = flag.lstrip("-").replace("-", "_")
    found = [key for key in keys if wanted in (key, key.partition(".")[2])]
    found = found or [key for key in keys if len(wanted) > 3 and wanted in key.partition(".")[2]]
    if not found:
        return ""
    value = _value_of(flag, arguments)
    return f"{flag}: settings are written without dashes, as {' or '.join(f'{key}={value}' for key in found)}"


def _value_of(flag: str, arguments: Sequence[str]) -> str:
    """What was typed behind a flag, to be repeated in advice; a secret is not."""
    from reckoner.config.secrets import holds_secret

    typed = _typed_after(flag, arguments)
    return "VALUE" if holds_secret(typed) else typed


def _typed_after(flag: str, arguments: Sequence[str]) -> str:
    for here, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if here.startswith(f"{flag}="):
            return here.partition("=")[2]
        if here == flag and after and not after.startswith("--"):
            return after
    return "VALUE"


def use_threads(config: Config) -> None:
    """Give torch the threads of `run.threads`, or every core it may use, and say on stderr what will compute. `InputError` for a GPU that is not there."""
    import sys

    import torch

    from reckoner.machine import allowed_cores
    from reckoner.models.policy import choose_precision

    torch.set_num_threads(config.run.threads or allowed_cores())
    print(
        f"computing on {choose_precision(config.model, full=False).note}, {torch.get_num_threads()} threads",
        file=sys.stderr,
    )
