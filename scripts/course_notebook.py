"""Write learn/course.ipynb, the pages of the course as one notebook: `python scripts/course_notebook.py`.

A section is a cell. A block of commands that all begin with `python learn/` is a cell that runs them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

LEARN = Path(__file__).parent.parent / "learn"
NOTEBOOK = LEARN / "course.ipynb"
PAGES = ("README.md", "SMOLLM2.md", "QUESTIONS.md")
COMMANDS = re.compile(r"```\n((?:python learn/.*\n)+)```\n")


def notebook() -> str:
    """The text of the notebook, without outputs."""
    cells: list[tuple[str, str]] = [("code", "%cd ..")]
    for page in PAGES:
        for section in re.split(r"^(?=## )", (LEARN / page).read_text(encoding="utf-8"), flags=re.MULTILINE):
            for index, part in enumerate(COMMANDS.split(section)):
                kind = "code" if index % 2 else "markdown"
                text = re.sub(r"^", "!", part.strip(), flags=re.MULTILINE) if index % 2 else part.strip()
                cells += [(kind, text)] if text else []
    return json.dumps(document(cells), indent=1, ensure_ascii=False) + "\n"


def document(cells: list[tuple[str, str]]) -> dict[str, Any]:
    """Cells of kind and text as a document of nbformat 4.5."""
    outputs = {"markdown": {}, "code": {"execution_count": None, "outputs": []}}
    written = [
        {
            "cell_type": kind,
            "id": f"cell-{index}",
            "metadata": {},
            **outputs[kind],
            "source": text.splitlines(keepends=True),
        }
        for index, (kind, text) in enumerate(cells)
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": written, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


if __name__ == "__main__":
    NOTEBOOK.write_text(notebook(), encoding="utf-8")
