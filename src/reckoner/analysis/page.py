"""The one writer of pages: an HTML file that needs nothing else, with data that scripts read.

Everything shown may be hostile: names, configurations and above all model text. HTML is autoescaped. The
page's own style and script are the only ones that its content policy allows (by hash). The explorer's
data are packed, and the page may request nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reckoner import __version__
from reckoner.analysis.canvas import DARK, MARKS, Mark, dark_rules, inline
from reckoner.analysis.markup import fenced, inert, typeset, visible
from reckoner.analysis.tables import EMPTY
from reckoner.runs.safe_paths import replacing

if TYPE_CHECKING:
    from jinja2 import Environment


def environment(autoescape: bool) -> Environment:
    """Jinja over our templates, with the filters that make text harmless; a missing name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {"typeset": typeset, "visible": visible, "inert": inert, "fenced": fenced}
    environment.globals |= {"version": __version__, "empty": EMPTY}
    return environment


def render_page(template: str, marks: Sequence[Mark], data: object, facts: dict[str, Any]) -> str:
    """One page from a template that extends page.html.j2; `marks` are of the arms that `data` shows."""
    dark = f"@media screen and (prefers-color-scheme:dark){{{dark_rules()}}}"
    style, script = asset("report.css") + arm_colours(marks) + dark, asset("report.js")
    return (
        environment(autoescape=True)
        .get_template(template)
        .render(
            **facts,
            inline=inline,
            style=style,
            style_hash=content_hash(style),
            script=script,
            script_hash=content_hash(script),
            shapes=[MARKS[mark.marker] for mark in marks],
            data=embed(data),
        )
    )


def write_text(path: Path, text: str) -> None:
    """Write a file under another name and rename it when it is whole; `Stopped` where that fails."""
    with replacing(path) as file:
        file.write(text.encode(errors="backslashreplace"))


def asset(name: str) -> str:
    """The text of one file in templates/."""
    return resources.files("reckoner.analysis").joinpath("templates", name).read_text(encoding="utf-8")


def content_hash(text: str) -> str:
    """The hash by which a content policy allows one style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def arm_colours(marks: Sequence[Mark]) -> str:
    """CSS that gives `.arm-0`, `.arm-1`, ... the colours of their marks, light and dark."""
    colours = [(mark.colour, DARK.get(mark.colour, mark.colour)) for mark in marks]
    light, dark = (
        "".join(f".arm-{index}{{--arm:{pair[theme]}}}" for index, pair in enumerate(colours))
        for theme in (0, 1)
    )
    return f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}"


def embed(value: object) -> str:
    """JSON, deflated (RFC 1950), in base64: none of its characters is markup. report.js unpacks it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("ascii"))).decode("ascii")
