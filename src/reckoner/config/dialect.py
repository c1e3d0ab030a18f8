"""The YAML of settings: a safe subset, where only the plain scalars of `_SCALARS` are not text.

YAML 1.1 reads `010` as 8, `1:30` as 90 and `off` as false, and not `1e-5` as a number.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

TEXT = "tag:yaml.org,2002:str"

_SCALARS = {
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": ("true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(0|[1-9]\d*)", list("-+0123456789")),
    "float": (
        r"[-+]?((0|[1-9]\d*)(\.\d*)?|\.\d+)(e[-+]?\d+)?|[-+]?\.inf|\.nan",
        list("-+.0123456789"),
    ),
}
"""Type -> (its form, the signs it begins with); what fits two forms has the first."""

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class Loader(yaml.SafeLoader):
    """Reads settings."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def compose_scalar_node(self, anchor: str | None) -> yaml.ScalarNode:
        """JSON writes a sign such as an emoji as two escapes, which are two halves to PyYAML."""
        node = super().compose_scalar_node(anchor)
        node.value = _PAIR.sub(
            lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), node.value
        )
        return node


class Dumper(yaml.SafeDumper):
    """Writes settings with quotes around every text that this dialect or YAML 1.1 reads as something else."""


for kind, (form, first) in _SCALARS.items():
    for dialect in (Loader, Dumper):
        pattern = re.compile(rf"(?:{form})\Z", re.ASCII | (re.IGNORECASE if kind == "float" else 0))
        dialect.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, first)
