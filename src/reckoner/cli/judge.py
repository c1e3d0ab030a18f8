"""Verbs that judge what was generated: grade, compare, errors, report. None of them needs torch."""

from __future__ import annotations

import typer

verbs = typer.Typer()
