"""The templates of the embedded problems, by id. Importing a file of templates registers them; the order is fixed."""

from __future__ import annotations

from reckoner.tasks.templates import measures, money, parts, relations, short, stories
from reckoner.tasks.templates.story import REGISTRY, Draw, Story, Template, numbers_in

__all__ = [
    "REGISTRY",
    "Draw",
    "Story",
    "Template",
    "measures",
    "money",
    "numbers_in",
    "parts",
    "relations",
    "short",
    "stories",
]
