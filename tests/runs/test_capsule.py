"""A capsule holds runs byte for byte: what was changed, added or removed is named."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

from reckoner.errors import InputError
from reckoner.runs.capsule import INDEX, pack, unpacked
from reckoner.runs.integrity import NOTHING


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "one"
    for name, text in {
        "summary.json": "{}",
        "MANIFEST.json": "{}",
        "predictions/test.jsonl": '{"a": 1}\n' * 500,
        "model/model.safetensors": "w" * 999,
        "checkpoints/step-1/MANIFEST.json": "{}",
        ".lock": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_what_a_capsule_holds(run, tmp_path):
    index = pack([run], tmp_path / "a.zip")
    kept = {"one/summary.json", "one/MANIFEST.json", "one/predictions/test.jsonl"}
    assert index["folders"] == ["one"] and set(index["files"]) == kept
    assert set(pack([run], tmp_path / "w.zip", weights=True)["files"]) == kept | {
        "one/model/model.safetensors"
    }
    with unpacked(tmp_path / "w.zip") as (root, _):
        assert (root / "one/model/model.safetensors").read_text() == "w" * 999
    assert not root.exists()
    copy = tmp_path / "moved" / "one"
    shutil.copytree(run, copy)
    pack([copy], tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_every_changed_byte_is_told(run, tmp_path):
    """Each byte of the archive but those that zip itself does not read: the named file, or the archive."""
    pack([run], tmp_path / "a.zip")
    whole = (tmp_path / "a.zip").read_bytes()
    with unpacked(tmp_path / "a.zip") as (root, _):
        expected = {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    named = 0
    for at in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[at] ^= 1
        (tmp_path / "b.zip").write_bytes(changed)
        try:
            with unpacked(tmp_path / "b.zip") as (root, _):
                found = {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
            assert found == expected
        except InputError as error:
            named += "has changed since it was packed" in str(error)
    assert named > 20


def rewrite(path: Path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda files: files.update({"one/summary.json": b"{ }"}), "one/summary.json has changed"),
        (lambda files: files.pop("one/summary.json"), "one/summary.json was removed"),
        (lambda files: files.update({"one/more": b""}), "one/more was added"),
        (lambda files: files.pop(INDEX), "has no capsule.json"),
        (lambda files: files.update({INDEX: b"[]"}), "expected an object"),
        (lambda files: files.update({INDEX: b"{}"}), "required field"),
    ],
)
def test_what_was_changed_is_named(run, tmp_path, change, said):
    pack([run], tmp_path / "a.zip")
    rewrite(tmp_path / "a.zip", change)
    with pytest.raises(InputError, match=said), unpacked(tmp_path / "a.zip"):
        pass


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "a\\\\x"])
def test_no_name_leaves_the_folder(run, tmp_path, name):
    index = {"folders": [], "files": {name: {"size": 0, "sha256": NOTHING["sha256"]}}}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(INDEX, json.dumps(index))
        archive.writestr(name, b"")
    with pytest.raises(InputError), unpacked(tmp_path / "a.zip"):
        pass


def test_what_cannot_be_packed_or_opened(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no finished run here"):
        pack([tmp_path / "empty"], tmp_path / "a.zip")
    twin = tmp_path / "b" / "one"
    shutil.copytree(run, twin)
    with pytest.raises(InputError, match="two of the folders are called one"):
        pack([run, twin], tmp_path / "a.zip")
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(InputError, match="cannot be read as a capsule"), unpacked(tmp_path / "text.zip"):
        pass


def test_a_damaged_archive_of_another_compression_is_refused(tmp_path):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("capsule.json", json.dumps({"folders": [], "files": {}}))
    whole = file.read_bytes()
    options = whole.index(b"capsule.json") + len("capsule.json") + 4
    file.write_bytes(whole[:options] + b"\xff" + whole[options + 1 :])
    with pytest.raises(InputError, match=r"capsule.json has changed since it was packed"), unpacked(file):
        pass
