"""Pages of the documentation request nothing from another host: the theme's script for search is ours.

The theme's `offline` plugin adds a script of unpkg.com to every page, without which search does not work from
a file system. `docs/search_from_files.js` does the same from the site's own folder.
"""

from __future__ import annotations

from typing import Any

REMOTE = '<script src="https://unpkg.com/iframe-worker/shim"></script>'
OURS = "search_from_files.js"


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Called by mkdocs with every page; another address in a script than the known one is an error."""
    here = output.replace(REMOTE, f'<script src="{"../" * page.url.count("/")}{OURS}"></script>')
    if '<script src="http' in here:
        raise ValueError(f"{page.url} would load a script from another host")
    return here


def on_post_template(output: str, template_name: str, config: Any) -> str:
    """Called by mkdocs with pages that are none of ours, as 404.html, which a server sends."""
    return output.replace(REMOTE, "")
