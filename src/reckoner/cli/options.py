"""What verbs share: the options that give a configuration, and advice for a flag that is a setting.

@verbs.command()
def sft(settings: Settings = None, preset: Preset = "", files: Files = None, dry_run: DryRun = False) -> None:
    config = read_config(preset, files, settings)
"""

from __future__ import annotations

from collections.abc import Sequence
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Context, Option

from reckoner.errors import InputError
from reckoner.machine import say_once

if TYPE_CHECKING:
    from reckoner.config import Config


def _setting_keys() -> list[str]:
    from reckoner.config.load import setting_names

    return [f"{name}=" for name in setting_names()]


def _presets() -> list[str]:
    from reckoner.config import preset_names

    return preset_names()


def arm_names(context: Context) -> list[str]:
    """The arms of the preset that a command line names, for a shell."""
    return list(read_config(context.params.get("preset") or "", None, None).study.arms)


Settings = Annotated[
    list[str] | None,
    Argument(
        metavar="section.key=value",
        help="settings, later wins; reckon settings lists them",
        autocompletion=_setting_keys,
    ),
]
Preset = Annotated[
    str,
    Option(
        "--preset",
        metavar="NAME",
        help="settings to start from; default: the model's own, or general",
        autocompletion=_presets,
    ),
]
Files = Annotated[
    list[Path] | None, Option("--config", metavar="FILE", help="YAML of settings; repeatable, later wins")
]
DryRun = Annotated[bool, Option("--dry-run", help="print what would run, and stop")]
AsJson = Annotated[bool, Option("--json", help="print JSON instead of a table")]

Split = Annotated[str, Option(metavar="NAME", help="which evaluation of a run folder; default: test")]
Gold = Annotated[
    Path | None,
    Option(
        "--gold",
        metavar="FILE",
        help="JSONL of problems: id, question and solution or gold, where none lie beside the completions",
    ),
]


def _sign(name: str) -> str:
    from reckoner.tasks.decimals import SIGNS

    if name not in SIGNS:
        raise InputError(f"--decimal {name[:40]} is no sign; {', '.join(SIGNS)} are")
    return name


Decimal = Annotated[
    str,
    Option(
        "--decimal",
        metavar="SIGN",
        callback=_sign,
        help="sign before decimals in files of others: point, comma; auto: a point, refused where most golds "
        "look like 1.000",
    ),
]

MODEL_KEY = "model.model_name_or_path"
PRESETS = {"nano": "nano", "smollm2-135m": "smollm2"}
"""The presets of models that have one of their own."""


def read_config(
    preset: str, files: Sequence[Path] | None, settings: Sequence[str] | None, model: str = ""
) -> Config:
    """The configuration that a command line asks for; raises `InputError`.

    `model` is one named outside the settings.

    Without `--preset` and `--config` it starts from the preset of the named model, or of the one that a named
    run began with, and from `general` where that has none: rates of one model would wreck another one.
    """
    from reckoner.config.load import load_config, typed_settings
    from reckoner.config.secrets import refuse_secret

    files, settings = files or [], settings or []
    typed = typed_settings(settings)
    if model and MODEL_KEY in typed:
        raise InputError(f"the model is named twice, once by {MODEL_KEY}. Leave that setting out")
    for file in files:
        refuse_secret("--config", str(file))
    if not preset and not files:
        preset = PRESETS.get(_root(model or str(typed.get(MODEL_KEY, "nano"))), "general")
    config = load_config(preset, files, settings)
    config.model.model_name_or_path = expanduser(config.model.model_name_or_path)
    named = model or config.model.model_name_or_path
    if preset == "nano" and _root(named) != "nano":
        say_once(f"the learning rates of preset nano were searched for the embedded model, not for {named}")
    return config


def config_of(model: str, settings: list[str] | None, preset: str, files: list[Path] | None) -> Config:
    """The configuration a model was trained with, if it is a run, with this command's settings on top."""
    from reckoner.config.layers import setting_name
    from reckoner.config.load import typed_settings
    from reckoner.config.secrets import refuse_secret
    from reckoner.runs.integrity import check_finished

    if setting_name(model) == MODEL_KEY:
        model = model.partition("=")[2]
    model = expanduser(model)
    if "=" in model and not Path(model).exists():
        raise InputError(f"{model}: the model comes first, then settings, as nano {model}")
    saved = Path(refuse_secret("RUN", model)) / "config.yaml"
    if saved.is_file():
        check_finished(Path(model), "config.yaml", "data.json")
        if "run.output_dir" in typed_settings(settings or ()):
            raise InputError(f"run.output_dir: what {model} is asked lies in its own folder. Leave it out")
    layers = [saved, *(files or [])] if saved.is_file() else files
    config = read_config(preset, layers, settings, model)
    if saved.is_file() and "prompt" not in typed_settings(settings or ()):
        config.prompt = read_config(preset, layers, None, model).prompt  # that of a suite is for other models
    config.data.local_files_only |= saved.is_file() and not names_data(files, settings)
    config.model.model_name_or_path = model
    return config


def _root(model: str) -> str:
    """What a run was trained from at first; the name itself where it is no run."""
    from reckoner.runs.folder import read_config as read_saved

    seen, model = set[str](), expanduser(model)
    while model not in seen and (Path(model) / "config.yaml").is_file():
        seen.add(model)
        model = str(read_saved(Path(model) / "config.yaml").get("model", {}).get("model_name_or_path", ""))
    return model


def names_data(files: Sequence[Path] | None, settings: Sequence[str] | None) -> bool:
    """Whether this command itself says where problems come from: only then may they be fetched."""
    from reckoner.config.layers import dotted, read_file, read_layer
    from reckoner.config.load import typed_settings

    keys = {"data.source", "data.suite", "data.hub_name", "data.local_files_only"}
    said = [dotted(read_layer(read_file(file, "--config"), str(file))[0]) for file in files or ()]
    return any(not keys.isdisjoint(one) for one in (typed_settings(settings or ()), *said))


def flag_hint(flag: str, arguments: Sequence[str]) -> str:
    """How to write `--learning-rate 1e-5` as a setting; empty where no setting has a similar name."""
    from reckoner.config.load import setting_names
    from reckoner.config.secrets import holds_secret

    keys = setting_names()
    wanted = flag.lstrip("-").replace("-", "_")
    similar = [key for key in keys if wanted in (key, key.partition(".")[2])]
    similar = similar or [key for key in keys if len(wanted) > 3 and wanted in key.partition(".")[2]]
    if not similar:
        return ""
    typed = _typed_after(flag, arguments)
    value = "VALUE" if holds_secret(typed) else typed
    return (
        f"{flag}: settings are written without dashes, as {' or '.join(f'{key}={value}' for key in similar)}"
    )


def _typed_after(flag: str, arguments: Sequence[str]) -> str:
    for here, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if here.startswith(f"{flag}="):
            return here.partition("=")[2]
        if here == flag and after and not after.startswith("--"):
            return after
    return "VALUE"


def use_threads(config: Config, verb: str = "") -> None:
    """Set the threads of torch to `run.threads` or this process's share of cores, and print what will run.

    Loads no weights; with the verb of one run it reads the tokenizer. `InputError` for a GPU that is not
    there.
    """
    import sys

    import torch

    from reckoner import console, ranks
    from reckoner.algorithms import ALGORITHMS
    from reckoner.engine.backend import precision_note
    from reckoner.evaluation.evaluate import make_prompt
    from reckoner.evaluation.limits import limit_warning, solution_lengths
    from reckoner.evaluation.session import has_train, load_problems
    from reckoner.machine import allowed_cores
    from reckoner.models.policy import choose_precision, load_encoder

    torch.set_num_threads(config.run.threads or ranks.share_of_cores(allowed_cores()))
    notes = [f"preset {config.preset}" if config.preset else "no preset"]
    if verb in ALGORITHMS:
        notes.append(f"learning rate {config.train.learning_rate:g} ({config.train.lr_scheduler_type})")
    precision = choose_precision(config.model, full=len(notes) > 1 and config.peft.method == "none")
    slow = precision.device.type == "cpu" and precision_note(config.model.dtype)
    warnings = [f"model.dtype={config.model.dtype}: {slow}"] if slow else []
    if verb:
        encoder = load_encoder(config.model)
        prompt = make_prompt(config, encoder)
        notes.append(f"{'chat' if prompt.chat else 'plain'} prompt, {len(prompt.exemplars)} shots")
        if config.eval.max_new_tokens and verb not in ("predict", "chat") and has_train(config):
            lengths = solution_lengths(encoder, prompt, load_problems(config, "train"))
            warnings.append(limit_warning(config, lengths))
    print("; ".join([*notes, f"{precision.note}, {torch.get_num_threads()} threads"]), file=sys.stderr)
    for warning in filter(None, warnings):
        print(console.escape(warning, newlines=False), file=sys.stderr)
