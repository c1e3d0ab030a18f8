"""Write docs/records.md, every record of a run folder, from the code: `python scripts/records_page.py`."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints, is_typeddict

from settings_page import table

from reckoner.runs import documents, records

PAGE = Path(__file__).parent.parent / "docs" / "records.md"
HEAD = """# Every record of a run folder

This page is written by `python scripts/records_page.py` from the code. Do not edit it. What is read from a
run folder is checked against these types, and a document that does not fit is refused with one line. A newer
version may add keys. [metrics.md](metrics.md) explains the values.
"""


def fields(record: type) -> list[tuple[str, ...]]:
    """Name, type and whether it must be there, of each field."""
    if is_typeddict(record):
        hints = get_type_hints(record, include_extras=True)
        optional = {name for name, kind in hints.items() if get_origin(kind) is NotRequired}
    else:
        hints = get_type_hints(record)
        missing = dataclasses.MISSING
        optional = {
            one.name
            for one in dataclasses.fields(record)
            if (one.default, one.default_factory) != (missing, missing)
        }
    return [
        (f"`{name}`", f"`{written(kind)}`", "" if name in optional else "yes") for name, kind in hints.items()
    ]


def written(kind: Any) -> str:
    """A type as it stands in the code, without the modules and the mark of what may be missing."""
    text = kind.__name__ if isinstance(kind, type) and get_origin(kind) is None else str(kind)
    found = re.fullmatch(r"typing\.NotRequired\[(.*)\]", text)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", found[1] if found else text)


def page() -> str:
    """The whole page: the lines of JSONL files, then the documents."""
    parts = [HEAD]
    for title, module in (("Lines of JSONL files", records), ("Documents", documents)):
        parts.append(f"## {title}\n")
        for name, record in vars(module).items():
            own = inspect.isclass(record) and record.__module__ == module.__name__
            if own and (is_typeddict(record) or dataclasses.is_dataclass(record)):
                about = " ".join((record.__doc__ or "").split())
                text = f"{about}\n\n" if about and not about.startswith(f"{name}(") else ""
                parts.append(f"### {name}\n\n{text}{table(('field', 'type', 'required'), fields(record))}")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
