"""The fuzzer finds what it looks for: its commands read undamaged documents, and a reader that raises is
named.
"""

import json
import random
from collections import Counter

import pytest

from benchmarks import fuzz


def test_a_damage_is_one_change_and_the_same_again(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"a": [1, {"b": "text"}], "c": 0.5}))
    found = [fuzz.damaged(random.Random(n), path) for n in range(200)]
    assert found == [fuzz.damaged(random.Random(n), path) for n in range(200)]
    assert sum(content != path.read_bytes() for content in found) > 150 and len(set(found)) > 100


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    place = tmp_path_factory.mktemp("fuzz") / "material"
    place.mkdir()
    fuzz.torture.finish(fuzz.torture.start(lambda: fuzz.prepare(place)))
    return place


def test_commands_read_the_undamaged_documents(material, monkeypatch):
    monkeypatch.setattr(fuzz, "damaged", lambda draw, path: path.read_bytes())
    endings = {(one["door"], one["ended"]) for one in fuzz.batch(material, 6, range(24))}
    assert {ended for _, ended in endings} == {"read"} and len(endings) >= 8


def test_a_reader_that_raises_or_dies_is_a_fault(material, monkeypatch):
    def broken(*words):
        if words[0] == "grade":
            raise KeyError("gold")
        if words[0] == "compare":
            fuzz.os.kill(fuzz.os.getpid(), fuzz.signal.SIGKILL)
        return (2, "") if words[0] == "errors" else (0, "")

    monkeypatch.setattr(fuzz, "quiet", broken)
    endings = list(fuzz.batch(material, 1, range(40)))
    assert [one["number"] for one in endings] == list(range(40))
    assert {one["ended"] for one in endings} == {"read", "traceback", "no line", "process ended with -9"}
    assert {one["error"] for one in endings if one["ended"] == "traceback"} == {"KeyError: 'gold'"}


def test_a_damaged_model_is_read_or_refused_in_one_line(material, monkeypatch):
    monkeypatch.setattr(fuzz, "DOORS", [door for door in fuzz.DOORS if door.name == "a model"])
    endings = list(fuzz.shared(material, 2, 40))
    assert sorted(one["number"] for one in endings) == list(range(40))
    counts = Counter(one["ended"] for one in endings)
    assert counts.keys() == {"read", "refused"} and min(counts.values()) >= 10, endings
    assert len({one["file"] for one in endings}) == 6


def test_the_page_says_what_is_stored():
    stored = json.loads(fuzz.RESULT.read_text())
    counts = sum((Counter(door) for door in stored["endings"].values()), Counter())
    assert stored["faults"] == [] and counts.total() == stored["documents"] >= 10_000
    assert stored["endings"].keys() == {door.name for door in fuzz.DOORS}
    page = (fuzz.RESULT.parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    read, refused = f"{counts['read']:,} read", f"{counts['refused']:,} refused"
    assert f"{stored['documents']:,} documents, {read}, {refused}, 0 tracebacks" in page
