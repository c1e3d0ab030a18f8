"""Model folders of strangers: pickles stay closed, code stays unexecuted, damaged headers and tricky
templates are one clear line."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reckoner.config import ModelConfig, PeftConfig
from reckoner.errors import InputError
from reckoner.models.policy import load_policy
from reckoner.models.sources import INDEX, Source, check_header, resolve


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self):
        return open, (str(self.ran), "w")


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def load(folder: Path):
    return load_policy(ModelConfig(str(folder), device="cpu"), PeftConfig(), train=False)


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


PICKLES = [
    "pytorch_model.bin",
    "optimizer.pt",
    "scheduler.pt",
    "training_args.bin",
    "model.pth",
    "model.pkl",
    "model.ckpt",
    "rng_state.pth",
    "adapter_model.bin",
]


@pytest.mark.parametrize("alone", [False, True], ids=["beside safetensors", "alone"])
def test_planted_pickles_stay_closed(folder, tmp_path, alone):
    ran = tmp_path / "ran"
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Bomb(ran)))
    if alone:
        (folder / "model.safetensors").unlink()
        with pytest.raises(
            InputError, match="is a pickle, which can run code: save it again with save_pretrained"
        ):
            load(folder)
    else:
        assert load(folder).parameters_total > 50_000
    assert not ran.exists()
    with open(folder / PICKLES[0], "rb") as file:
        pickle.load(file).close()
    assert ran.exists(), "the bomb was none"


def test_a_pickle_with_the_name_of_safetensors(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(ran)))
    with pytest.raises(InputError, match="damaged safetensors file, or cut short"):
        load(folder)
    assert not ran.exists()


def test_a_pickled_adapter_stays_closed(folder, tmp_path):
    ran = tmp_path / "ran"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder)})
    )
    (tmp_path / "a" / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(ran)))
    with pytest.raises(InputError, match=r"adapter_model\.bin is a pickle"):
        load(tmp_path / "a")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "value", [{"AutoModelForCausalLM": "modeling_x.X"}, {}, "x", ["modeling_x.X"]], ids=str
)
def test_code_of_a_model_folder_is_not_run(folder, tmp_path, name, value):
    for module in (
        "modeling_x.py",
        "tokenization_x.py",
        "configuration_x.py",
        "__init__.py",
        "setup.py",
        "conftest.py",
    ):
        (folder / module).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(folder / name, auto_map=value)
    with pytest.raises(InputError, match="asks to run the folder's own code"):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"auto_mapping": {"parent_library": "evil_x", "base_model_class": "X"}},
        {"megatron_config": {"a": 1}, "megatron_core": "evil_x"},
    ],
)
def test_an_adapter_cannot_name_a_module_to_import(folder, tmp_path, monkeypatch, fields):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_x.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(folder)} | fields)
    )
    with pytest.raises(InputError, match="asks peft to import code by name"):
        load(tmp_path / "a")
    assert not (tmp_path / "ran").exists() and "evil_x" not in sys.modules


def test_adapters_that_adapt_each_other(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / base)})
        )
        (tmp_path / name / "adapter_model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    with pytest.raises(InputError, match="adapts itself"):
        resolve(str(tmp_path / "a"))


CONFIGS = {
    "empty": "",
    "list": "[]",
    "text": '"x"',
    "null": "null",
    "deep": "[" * 100_000,
    "bytes": b"\xff\xfe",
    "nothing in it": "{}",
    "unknown type": '{"model_type": "gemmma"}',
    "type a list": '{"model_type": ["gemma"]}',
    "nan": '{"model_type": NaN}',
}


@pytest.mark.parametrize("content", CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_is_none(folder, content):
    (folder / "config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=r"config\.json") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 48},
        {"hidden_size": "x"},
        {"num_hidden_layers": -1},
        {"vocab_size": 3},
        {"num_attention_heads": 0},
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_its_weights(folder, fields):
    change(folder / "config.json", **fields)
    with pytest.raises(InputError) as error:
        load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


# Every file that is read lies in the folder, is a regular file, and is hashed


def shard(folder: Path) -> dict[str, str]:
    """Put the weights of `folder` into two files with an index; returns its weight_map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {name: f"model-0000{1 + (at > 5)}-of-00002.safetensors" for at, name in enumerate(names)}
    for file in set(files.values()):
        part = {name: tensors[name] for name in names if files[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    write_index(folder, files)
    return files


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def test_weights_in_parts_are_read_and_hashed_with_their_index(folder, tiny_model):
    files = shard(folder)
    whole, parts = load(tiny_model).model.state_dict(), load(folder).model.state_dict()
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    before = resolve(str(folder)).digest()
    write_index(folder, {name: file for name, file in reversed(files.items())})
    assert resolve(str(folder)).digest() != before


@pytest.mark.parametrize(
    "target",
    [
        "{outside}",
        "../outside.safetensors",
        "sub/model.safetensors",
        "pytorch_model.bin",
        "/dev/zero",
        3,
        None,
        ["x"],
    ],
)
def test_an_index_names_files_of_its_own_folder_alone(folder, tmp_path, target):
    ran = tmp_path / "ran"
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    (folder / "sub").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "sub" / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(ran)))
    files = shard(folder)
    place = target.format(outside=tmp_path / "outside.safetensors") if isinstance(target, str) else target
    write_index(folder, {name: place for name in files})
    with pytest.raises(InputError, match=r"index\.json: no \*\.safetensors file of this folder is "):
        load(folder)
    assert not ran.exists()


@pytest.mark.parametrize(
    "weight_map", [None, [], {}, "x", {"no.such.tensor": "model-00001-of-00002.safetensors"}]
)
def test_an_index_that_is_none(folder, weight_map):
    shard(folder)
    write_index(folder, weight_map)
    with pytest.raises(InputError, match=r"index\.json: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"],
)
@pytest.mark.parametrize("kind", ["link", "fifo", "device", "dangling"])
def test_a_file_that_lies_elsewhere_or_is_none_is_refused(folder, tmp_path, name, kind):
    (folder / name).rename(tmp_path / "elsewhere")
    match kind:
        case "fifo":
            os.mkfifo(folder / name)
        case _:
            target = {"link": tmp_path / "elsewhere", "device": "/dev/zero", "dangling": tmp_path / "none"}
            (folder / name).symlink_to(target[kind])
    with pytest.raises(
        InputError, match="is a link out of its folder|is no regular file|has no config"
    ) as error:
        load(folder)
    assert str(folder) in str(error.value)


def test_a_linked_folder_of_templates_is_refused(folder, tmp_path):
    (tmp_path / "templates").mkdir()
    (folder / "additional_chat_templates").symlink_to(tmp_path / "templates")
    with pytest.raises(InputError, match="additional_chat_templates is no regular file"):
        load(folder)


def test_links_of_the_hub_cache_and_to_a_whole_folder_are_followed(folder, tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1f", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for at, path in enumerate(sorted(folder.iterdir())):
        path.rename(blobs / str(at))
        (snapshot / path.name).symlink_to(blobs / str(at))
    (tmp_path / "linked").symlink_to(snapshot)
    assert load(tmp_path / "linked").parameters_total > 50_000


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("config.json", {"transformers_weights": "sub/model.safetensors"}, "names other files to read"),
        (
            "tokenizer_config.json",
            {"fast_tokenizer_files": ["x/tokenizer.4.0.json"]},
            "names other files to read",
        ),
        ("config.json", {"attn_implementation": "org/kernel"}, "asks to run code of the Hub"),
        (
            "config.json",
            {"text_config": {"_attn_implementation": "org/kernel:f"}},
            "asks to run code of the Hub",
        ),
        (
            "config.json",
            {"text_config": {"auto_map": {"AutoModel": "x.X"}}},
            "asks to run the folder's own code",
        ),
        (
            "config.json",
            {"num_hidden_layers": 10**9},
            "num_hidden_layers is 1000000000, more than its weights",
        ),
    ],
)
def test_a_document_that_names_more_than_there_is(folder, name, fields, message):
    change(folder / name, **fields)
    with pytest.raises(InputError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "fields", [{"vocab_size": 2**31}, {"intermediate_size": 2**40}, {"num_attention_heads": 2**33}], ids=str
)
def test_a_config_far_larger_than_its_weights_gets_no_memory(folder, fields):
    change(folder / "config.json", **fields)
    with pytest.raises(InputError, match="far larger model than the weights"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", INDEX, "model-00001-of-00002.safetensors"]
)
def test_what_a_run_is_made_from_is_hashed(folder, name):
    shard(folder)
    before = resolve(str(folder)).digest()
    with open(folder / name, "ab") as file:
        file.write(b" ")
    assert Source("", folder, "").digest() != before


# Headers of safetensors


def write(path: Path, header: bytes | str | dict, body: bytes = b"", length: int | None = None) -> Path:
    raw = (
        json.dumps(header).encode()
        if isinstance(header, dict)
        else header.encode()
        if isinstance(header, str)
        else header
    )
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + body)
    return path


def tensor(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {
        "dtype": dtype,
        "shape": list(shape) if isinstance(shape, tuple) else shape,
        "data_offsets": list(offsets) if isinstance(offsets, tuple) else offsets,
    }


def test_a_sound_header_is_read(tmp_path):
    body = bytes(12)
    header = {
        "__metadata__": {"format": "pt"},
        "b": tensor("F16", (2, 1), (8, 12)),
        "a": tensor(),
        "none": tensor("I64", (0, 3), (8, 8)),
    }
    assert check_header(write(tmp_path / "x", header, body)) == {"b": [2, 1], "a": [2], "none": [0, 3]}
    assert check_header(write(tmp_path / "x", "{}")) == {}


HEADERS = {
    "no object": ("[]", b""),
    "a number": ("3", b""),
    "not JSON": ("{", b""),
    "not UTF-8": (b"\xff{}", b""),
    "deep": ("[" * 100_000, b""),
    "nothing": ("", b""),
    "a name twice": ('{"a": %s, "a": %s}' % ((json.dumps(tensor()),) * 2), bytes(8)),
    "unknown type": ({"a": tensor("F33")}, bytes(8)),
    "type a list": ({"a": tensor([])}, bytes(8)),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
    "entry a text": ({"a": "x"}, b""),
    "negative size": ({"a": tensor(shape=(-2,))}, bytes(8)),
    "huge size": ({"a": tensor(shape=(2**62, 2**62))}, bytes(8)),
    "size over 64 bits": ({"a": tensor(shape=(2**70,))}, bytes(8)),
    "overflowing size": ({"a": tensor(shape=(2**61,), offsets=(0, 8))}, bytes(8)),
    "size a fraction": ({"a": tensor(shape=(2.0,))}, bytes(8)),
    "size true": ({"a": tensor(shape=(True, 2))}, bytes(8)),
    "one offset": ({"a": tensor(offsets=(8,))}, bytes(8)),
    "offsets backwards": ({"a": tensor(offsets=(8, 0))}, bytes(8)),
    "offset negative": ({"a": tensor(offsets=(-8, 0))}, bytes(8)),
    "offsets outside": ({"a": tensor(offsets=(8, 16))}, bytes(8)),
    "offsets far outside": ({"a": tensor(offsets=(2**62, 2**62 + 8))}, bytes(8)),
    "overlap": ({"a": tensor(), "b": tensor()}, bytes(8)),
    "partial overlap": ({"a": tensor(), "b": tensor(offsets=(4, 12))}, bytes(12)),
    "gap": ({"a": tensor(), "b": tensor(offsets=(16, 24))}, bytes(24)),
    "bytes left over": ({"a": tensor()}, bytes(9)),
    "bytes missing": ({"a": tensor()}, bytes(7)),
    "wrong bytes for type": ({"a": tensor("F64")}, bytes(8)),
    "metadata a list": ({"__metadata__": []}, b""),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, b""),
}


@pytest.mark.parametrize("header, body", HEADERS.values(), ids=HEADERS)
def test_a_damaged_header_is_refused(tmp_path, header, body):
    with pytest.raises(InputError, match="damaged safetensors file") as error:
        check_header(write(tmp_path / "x.safetensors", header, body))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("length", [3, 100, 10**8 + 1, 2**31, 2**63, 2**64 - 1])
def test_a_header_longer_than_its_file_is_not_read(tmp_path, length):
    with pytest.raises(InputError, match="damaged safetensors file, or cut short"):
        check_header(write(tmp_path / "x", "{}", length=length))


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 7, b"\xff" * 8])
def test_a_file_too_short_to_have_one(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="damaged safetensors file, or cut short"):
        check_header(tmp_path / "x")


def test_five_hundred_changed_headers(tiny_model, tmp_path):
    """A changed byte of the header is refused, or leaves names and shapes that the library reads as well."""
    from safetensors import safe_open

    content = (tiny_model / "model.safetensors").read_bytes()
    length, draw = int.from_bytes(content[:8], "little"), random.Random(0)
    refused = 0
    for _ in range(500):
        raw = bytearray(content)
        raw[draw.randrange(8 + length)] = draw.randrange(256)
        path = tmp_path / "x.safetensors"
        path.write_bytes(raw)
        try:
            ours = check_header(path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        with safe_open(path, "pt") as file:
            assert ours == {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    assert refused > 250


def test_a_damaged_header_stops_loading(folder):
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[20] ^= 0xFF
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(InputError, match=r"model\.safetensors: damaged safetensors file"):
        load(folder)


# Chat templates

LOOP = "{% for m in messages %}<start_of_turn>{{ m['role'] }}\n{{ m['content'] }}<end_of_turn>\n{% endfor %}"
ESCAPES = {
    "class": "{{ ''.__class__ }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by subscript": "{{ ''['__class__'] }}",
    "by filter": "{{ ''|attr('__class__') }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "lipsum": "{{ lipsum.__globals__ }}",
    "function": "{{ raise_exception.__globals__ }}",
    "self": "{{ self.__init__ }}",
    "import": "{{ messages.__class__.__base__.__subclasses__()[100].__init__ }}",
    "builtins": "{{ messages[0].__init__.__globals__['__builtins__'] }}",
    "set": "{% set x = ''.__class__ %}",
    "include": "{% include '/etc/passwd' %}",
    "import file": "{% import 'x' as y %}",
    "from": "{%- from 'x' import y %}",
    "extends": "{% extends 'x' %}",
    "string of it": "{% set k = '__cl' ~ 'ass__' %}{{ ''[k].mro() }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "format map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "mutation": "{{ messages.append(1) }}",
    "not a template": "{{",
    "unknown filter": "{{ 1|zzz }}",
    "division": "{{ 1 / 0 }}",
    "types": "{{ 1 + 'a' }}",
    "huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "missing key": "{{ messages[9].content.x }}",
    "raises": "{{ raise_exception('no') }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "unknown tag": "{% evil %}",
    "too long": "x" * 100_001,
    "strftime": "{{ strftime_now(1) }}",
}


@pytest.mark.parametrize("template", ESCAPES.values(), ids=ESCAPES)
def test_a_template_that_reaches_out_is_refused(folder, template):
    change(folder / "tokenizer_config.json", chat_template=LOOP + template)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(InputError, match="chat template of") as error:
        load(folder).encode_prompt([{"role": "user", "content": "hello"}])
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_a_template_of_its_own_file_is_checked_too(folder):
    (folder / "chat_template.jinja").write_text(LOOP + ESCAPES["class"])
    with pytest.raises(InputError, match="asks for __class__"):
        load(folder)


@pytest.mark.parametrize(
    "template", [LOOP, "{% set ns = namespace(x=1) %}" + LOOP, LOOP + "{% generation %}x{% endgeneration %}"]
)
def test_templates_in_use_pass(folder, template):
    change(folder / "tokenizer_config.json", chat_template=template)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    policy = load(folder)
    ids = policy.encode_prompt([{"role": "user", "content": "hello"}])
    assert "<start_of_turn>user\nhello" in policy.tokenizer.decode(ids)
