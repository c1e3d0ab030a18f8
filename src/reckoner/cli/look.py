"""Verbs that look at things: data, plan, doctor, chat, predict, merge, eval."""

from __future__ import annotations

from typing import Annotated

import typer

from reckoner.cli.options import AsJson, Files, Preset, Settings, read_config

verbs = typer.Typer()
data = typer.Typer(help="Look at a data set, or make embedded problems.")
verbs.add_typer(data, name="data")


@data.command()
def stats(settings: Settings = None, preset: Preset = "", files: Files = None, as_json: AsJson = False) -> None:
    """Sizes, lengths, annotations and the floors that any method must beat."""
    config = read_config(preset, files, settings)
    print(config.data)


@data.command("show-labels")
def show_labels(
    settings: Settings = None,
    preset: Preset = "",
    files: Files = None,
    n: Annotated[int, typer.Option("-n", min=1, help="problems to show")] = 3,
) -> None:
    """Show the exact prompt and the supervised tokens, with their ids."""
    read_config(preset, files, settings)
