"""The fuzzer finds what it looks for: its commands read undamaged documents, and a reader that raises is named."""

import json
import random

from benchmarks import fuzz


def test_a_damage_is_one_change_and_the_same_again(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [1, {"b": "text"}], "c": 0.5}))
    found = [fuzz.damaged(random.Random(n), path) for n in range(200)]
    assert found == [fuzz.damaged(random.Random(n), path) for n in range(200)]
    assert sum(content != path.read_bytes() for content in found) > 150 and len(set(found)) > 100
