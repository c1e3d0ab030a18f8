"""No environment variable is set without being documented."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETS = re.compile(r"""environ(?:\.setdefault\(|\[)\s*["'](\w+)["'](?:,|\]\s*=)|putenv\(\s*["'](\w+)["']""")


def test_every_variable_that_the_source_sets_is_in_the_table_with_its_file():
    rows = re.findall(
        r"^\| `(\w+)` \| `[^`]+` \| `(reckoner/[^`]+)` \|", (ROOT / "docs/reliability.md").read_text(), re.M
    )
    sets = {
        (first or second, f"reckoner/{path.relative_to(ROOT / 'src/reckoner').as_posix()}")
        for path in (ROOT / "src/reckoner").rglob("*.py")
        for first, second in SETS.findall(path.read_text(encoding="utf-8"))
    }
    assert set(rows) == sets and len(sets) >= 5


def test_the_pattern_sees_each_form():
    for line in ('os.environ.setdefault("A", "1")', "os.environ['A'] = '1'", 'os.putenv("A", "1")'):
        assert "A" in SETS.findall(line)[0]
    assert not SETS.findall('os.environ.get("A")') and not SETS.findall('value = os.environ["A"]')
