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


_FORMULA = re.compile(r"(?:^|(?<=[;\t,]))(?=[\s\ufeff]*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r])")
"""Where a formula may begin: at the start, or behind a sign that separates cells in some country."""


def typeset(text: str) -> Markup:
    """Numbers with a true minus sign, a dash inside an interval, and no line break within an interval or
    before a unit.
    """
    import markupsafe

    escaped = str(markupsafe.escape(text))
    dashed = re.sub(r"(?:(?<![\w.])|(?<=\de))-(?=\d)", "\u2212", re.sub(r"(?<=\d)-(?=\d)", "\u2013", escaped))
    joined = re.sub(r"(?<=\d) (?=%)|(?<=\b[kn]) (?== \d)|(?<=\b[kn] =) (?=\d)", "\u00a0", dashed)
    return markupsafe.Markup(re.sub(r"[\d.,]+\u2013[\d.,]*\d", r'<span class="whole">\g<0></span>', joined))


def visible(text: str) -> str:
    """Text in which controls, also those that reorder a line, and half surrogates are seen and do nothing."""
    unsafe = r"[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
    return re.sub(unsafe, lambda match: f"\\x{ord(match[0]):02x}", text)


def shorten(text: str) -> str:
    """At most `LONGEST` characters, with the number left out."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}\n[{len(text) - LONGEST:,} more characters]"


def indented(value: Mapping[str, Any]) -> str:
    """JSON to read, or nothing of an empty document."""
    return json.dumps(dict(value), indent=1) if value else ""


def inert(text: object) -> str:
    """Text for one line of Markdown: nothing is markup, begins a list or rule, links or calls a user."""
    flat = " ".join(visible(str(text)).split())
    escaped = re.sub(r"([\\`*_{}\[\]<>()#|~&!$])", r"\\\1", flat)
    escaped = escaped.replace("://", ":\\//").replace("@", "@\u2060")
    return re.sub(r"^(\d{0,9})(?=[.+=-](?:[\s=-]|$))", r"\1\\", escaped)


def fenced(text: object) -> str:
    """A fenced block of Markdown that the text cannot end."""
    shown = visible(str(text))
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown}\n{fence}"


def guard(text: str) -> str:
    """Text for CSV that no spreadsheet takes for a formula, on one line."""
    return _FORMULA.sub("'", text).replace("\r", "\\r").replace("\n", "\\n").replace("\0", "\\0")
