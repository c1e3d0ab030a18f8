"""The one writer of pages, and what makes foreign text harmless in HTML, Markdown and CSV.

A page is one HTML file that needs nothing else, with data that its script reads. Everything shown may be
hostile: names, configurations and above all model text. HTML is autoescaped. The page's own style and script
are the only ones that its content policy allows (by hash). Figures are images, which run nothing. The
explorer's data are packed, and the page may request nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reckoner import __version__
from reckoner.analysis.canvas import DARK, MARKS, Mark, address
from reckoner.analysis.wording import inert, visible
from reckoner.runs.safe_paths import replacing

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


LONGEST = 3000
"""Characters of one text in the static part of a report."""


def environment(autoescape: bool) -> Environment:
    """Jinja over our templates, with the filters that make text harmless; a missing name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    for change in (typeset, visible, inert, fenced, shorten, indented):
        environment.filters[change.__name__] = change
    environment.globals["version"] = __version__
    return environment


def render_page(
    template: str, marks: Sequence[Mark], data: object, facts: dict[str, Any], look: str = "report"
) -> str:
    """One page from a template that extends page.html.j2; `marks` are of the arms that `data` shows.

    Style and script are those called `look`.
    """
    style, script = asset(f"{look}.css") + arm_colours(marks), asset(f"{look}.js")
    return (
        environment(autoescape=True)
        .get_template(template)
        .render(
            **facts,
            address=address,
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
    return base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


def typeset(text: str) -> Markup:
    """Numbers with a true minus sign, a dash inside an interval, and no line break within an interval or
    before a unit.
    """
    import markupsafe

    escaped = str(markupsafe.escape(text))
    dashed = re.sub(r"(?:(?<![\w.])|(?<=\de))-(?=\d)", "\u2212", re.sub(r"(?<=\d)-(?=\d)", "\u2013", escaped))
    joined = re.sub(r"(?<=\d) (?=%)|(?<=\b[kn]) (?== \d)|(?<=\b[kn] =) (?=\d)", "\u00a0", dashed)
    return markupsafe.Markup(re.sub(r"[\d.,]+\u2013[\d.,]*\d", r'<span class="whole">\g<0></span>', joined))


def shorten(text: str) -> str:
    """At most `LONGEST` characters, with the number left out."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"


def indented(value: Mapping[str, Any]) -> str:
    """JSON to read, or nothing of an empty document."""
    return json.dumps(dict(value), indent=1) if value else ""


def fenced(text: object) -> str:
    """A fenced block of Markdown that the text cannot end."""
    shown = visible(str(text))
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"
