"""JSON is read by one reader, which names the file and the key of what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from reckoner.errors import InputError
from reckoner.runs import documents
from reckoner.runs.records import Grade, read_json, read_json_lines, read_records

LINE = (
    '{"problem_id": "a", "sample": 0, "strict": true, "flexible": true, "strict_value": "7", '
    '"flexible_value": null, "verdict": "correct", "markers": 1}'
)


def written(folder: Path, text: str) -> Path:
    (folder / "x.json").write_text(text)
    return folder / "x.json"


@pytest.mark.parametrize(
    "text, says",
    [
        ('{"size": 1, "size": 2, "sha256": ""}', "a key stands twice in one object"),
        ('{"size": 1, "sha256": "", "more": {"a": 1, "a": 1}}', "a key stands twice in one object"),
        ('{"size": NaN, "sha256": ""}', "nan is no finite number|NaN is no finite number"),
        ('{"size": 1e999, "sha256": ""}', "1e999 is no finite number"),
        ('{"size": 9223372036854775808, "sha256": ""}', "has more than 64 bits"),
        ('{"size": ' + "9" * 400 + "}", "has more than 64 bits"),
        ('{"size": true, "sha256": ""}', "size: expected `int`, got `bool`"),
        ('{"size": 1.5, "sha256": ""}', "size: expected `int`, got `float`"),
        ('{"size": 1}', "object missing required field `sha256`"),
        ("[]", "expected `object`, got `array`"),
        ("[" * 100_000, "cannot be read as JSON"),
        ('"\\ud800"', "is no text"),
    ],
)
def test_a_document_that_does_not_fit_is_named_with_its_key(tmp_path, text, says):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=f"^{path}: .*({says})"):
        read_json(path, documents.Entry)


def test_a_document_comes_back_whole(tmp_path):
    """Keys that no reader knows too, since a summary is read, added to and written again."""
    value = read_json(written(tmp_path, '{"size": 1, "sha256": "", "newer": [1.5]}'), documents.Entry)
    assert value == {"size": 1, "sha256": "", "newer": [1.5]}
    assert read_json(tmp_path / "absent", documents.Entry, missing={}) == {}


@pytest.mark.parametrize(
    "old, new, says",
    [
        ('"sample": 0', '"sample": true', "sample: expected `int`, got `bool`"),
        ('"verdict": "correct"', '"verdict": "zzz"', "verdict: invalid enum value 'zzz'"),
        ('"markers": 1', '"markers": 1, "zzz": 1', "Grade has no field zzz"),
        (', "markers": 1', "", "object missing required field `markers`"),
        ('"sample": 0', '"sample": 0, "sample": 1', "a key stands twice"),
    ],
)
def test_a_record_that_does_not_fit_is_named_with_line_and_field(tmp_path, old, new, says):
    path = written(tmp_path, f"{LINE}\n{LINE.replace(old, new)}\n")
    records = read_records(path, Grade)
    assert next(records) == Grade("a", 0, True, True, "7", None, "correct", 1)
    with pytest.raises(InputError, match=f"^{path} line 2: .*{says}"):
        next(records)


def test_lines_of_others_may_hold_what_is_not_finite(tmp_path):
    assert [line for _, line in read_json_lines(written(tmp_path, '{"logprob": -Infinity}\n'))] == [
        {"logprob": float("-inf")}
    ]
