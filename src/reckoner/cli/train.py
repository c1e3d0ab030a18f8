"""Verbs that train and run studies: study, sft."""

from __future__ import annotations

import typer

verbs = typer.Typer()
