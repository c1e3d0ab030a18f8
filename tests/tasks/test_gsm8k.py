"""Splits: what is read, what is cut, what is refused. The real files are the main witness."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reckoner.config.suites import known_files
from reckoner.errors import InputError
from reckoner.runs.records import Problem, dumps, read_records, write_jsonl
from reckoner.tasks import gsm8k
from reckoner.tasks.answers.number import grade_text

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"


@pytest.fixture
def real():
    if not (REAL / "train.jsonl").is_file():
        pytest.skip("the GSM8K files are not beside the checkout (shared/data/gsm8k)")
    return {"source": "gsm8k", "path": str(REAL)}


def rows(n, start=0):
    return [
        {"question": f"How many is {i} and 1?", "answer": f"{i}+1 = {i + 1}\n#### {i + 1}"}
        for i in range(start, start + n)
    ]


def write(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """100 train and 10 test problems, main and socratic, the socratic ones in another order."""
    for part, content in (("train", rows(100)), ("test", rows(10, 200))):
        write(tmp_path / f"{part}.jsonl", content)
        write(
            tmp_path / f"{part}_socratic.jsonl",
            [{**row, "answer": f"What? ** {row['answer']}"} for row in reversed(content)],
        )
    return {"source": "gsm8k", "path": str(tmp_path), "dev_size": 20}


def questions(problems):
    return {problem.question for problem in problems}


def test_the_real_files_are_recognised_and_split(real):
    train, dev, test = (gsm8k.load(split, **real) for split in ("train", "dev", "test"))
    shots = gsm8k.exemplars(**real)
    assert [len(part) for part in (train, dev, test, shots)] == [6_965, 500, 1_319, 8]
    assert len(questions(train) | questions(dev) | questions(shots)) == 7_473
    assert [(file["rows"], file["published"]) for file in gsm8k.files(**real)] == [
        (7_473, "GSM8K main train"),
        (1_319, "GSM8K main test"),
    ]
    assert {problem.source for problem in train + test} == {"gsm8k"}


def test_dev_and_exemplars_are_pinned(real):
    """A change of these is a change of every published number."""
    named = [problem.id for problem in [*gsm8k.exemplars(**real), *gsm8k.load("dev", **real)]]
    assert hashlib.sha256("\n".join(named).encode()).hexdigest()[:16] == "af70d446e8424902"


def test_all_10111_real_rows_survive_a_round_trip_and_are_graded_correct(real, tmp_path):
    whole = {**real, "dev_size": 0}
    found = [
        *gsm8k.load("train", **whole),
        *gsm8k.exemplars(**whole),
        *gsm8k.load("test", **whole),
        *gsm8k.load("test", **whole, variant="socratic"),
    ]
    assert len(found) == 10_111
    write_jsonl(tmp_path / "all.jsonl", found)
    assert list(read_records(tmp_path / "all.jsonl", Problem)) == found
    text = "".join(problem.question + problem.solution for problem in found)
    assert all(trap in text for trap in ("\u2028", "’", "½", "\u200b", "А"))
    assert all(grade_text(problem.solution, problem.gold).verdict == "correct" for problem in found)


def test_rows_hash_like_the_file_they_would_make(real):
    with open(REAL / "test.jsonl", encoding="utf-8") as file:
        content = [json.loads(line) for line in file.read().split("\n") if line]
    assert known_files()[gsm8k._rows_digest(content)] == ("gsm8k", "GSM8K main test")


def test_socratic_shares_ids_and_golds_with_main(real):
    main, socratic = gsm8k.load("test", **real), gsm8k.load("test", **real, variant="socratic")
    assert [(p.id, p.question, p.gold) for p in main] == [(p.id, p.question, p.gold) for p in socratic]
    assert all(" ** " in problem.solution for problem in socratic)


def test_real_folder_has_no_socratic_train(real):
    with pytest.raises(
        InputError, match="no train_socratic.jsonl in this folder, which data.variant=socratic needs"
    ):
        gsm8k.load("train", **real, variant="socratic")


def test_dev_is_the_smallest_hashes_after_the_exemplars(folder):
    def key(question):
        return hashlib.sha256(" ".join(question.lower().split()).encode()).hexdigest()

    every = [row["question"] for row in rows(100)]
    shots = sorted(
        every, key=lambda question: hashlib.sha256(f"exemplar {key(question)}".encode()).hexdigest()
    )[:8]
    dev = sorted(set(every) - set(shots), key=key)[:20]
    assert [problem.question for problem in gsm8k.exemplars(**folder)] == shots
    assert [problem.question for problem in gsm8k.load("dev", **folder)] == [q for q in every if q in dev]
    assert [problem.question for problem in gsm8k.load("train", **folder)] == [
        q for q in every if q not in {*dev, *shots}
    ]


def test_dev_and_exemplars_are_the_same_for_both_variants_and_any_order(folder):
    for part in ("train", "dev", "test"):
        main, socratic = gsm8k.load(part, **folder), gsm8k.load(part, **folder, variant="socratic")
        assert {(p.id, p.question) for p in main} == {(p.id, p.question) for p in socratic}
        assert {p.variant for p in socratic} == {"socratic"}
    assert [p.id for p in gsm8k.exemplars(**folder)] == [
        p.id for p in gsm8k.exemplars(**folder, variant="socratic")
    ]


def test_exemplars_do_not_depend_on_dev_size_and_smaller_devs_are_nested(folder):
    small, large = {**folder, "dev_size": 5}, {**folder, "dev_size": 0.5}
    assert gsm8k.exemplars(**small) == gsm8k.exemplars(**large)
    assert len(gsm8k.load("dev", **large)) == 50
    assert questions(gsm8k.load("dev", **small)) < questions(gsm8k.load("dev", **large))
    assert gsm8k.load("dev", **{**folder, "dev_size": 0}) == []


def test_a_limited_set_is_nested_in_a_larger_one_and_keeps_the_order(folder):
    few = gsm8k.load("train", **folder, max_train_samples=10)
    more = gsm8k.load("train", **folder, max_train_samples=30)
    every = gsm8k.load("train", **folder)
    assert [len(few), len(more), len(every)] == [10, 30, 72] and set(few) < set(more) < set(every)
    assert more == [problem for problem in every if problem in more]
    assert len(gsm8k.load("test", **folder, max_test_samples=4)) == 4


def test_a_single_file_with_its_own_field_names(tmp_path):
    content = [
        {"problem": row["question"], "solution": f"So the answer is {row['answer'].split()[-1]}."}
        for row in rows(40)
    ]
    own = {
        "path": write(tmp_path / "my.jsonl", content),
        "question_field": "problem",
        "solution_field": "solution",
        "gold_pattern": r"answer is (\d+)",
        "dev_size": 0.1,
    }
    train = gsm8k.load("train", **own)
    assert (
        len(train) == 28
        and train[0].source == "my.jsonl"
        and train[0].solution.endswith(f".\n#### {train[0].gold}")
    )
    with pytest.raises(InputError, match="is one file. Name the test problems with data.test_path=FILE"):
        gsm8k.load("test", **own)
    assert (
        len(
            gsm8k.load(
                "test",
                **own,
                test_path=write(tmp_path / "t.jsonl", [{"problem": "p", "solution": "answer is 3"}]),
            )
        )
        == 1
    )


def test_a_changed_file_is_read_again(folder):
    assert len(gsm8k.load("train", **folder)) == 72
    write(Path(folder["path"]) / "train.jsonl", rows(90))
    assert len(gsm8k.load("train", **folder)) == 62


def test_overlap_of_train_and_test_is_refused(folder):
    write(
        Path(folder["path"]) / "test.jsonl",
        [*rows(3, 300), {**rows(1, 7)[0], "question": "how many  is 7 and 1?"}],
    )
    for part in ("train", "test"):
        with pytest.raises(
            InputError,
            match=r"test.jsonl line 4: the same question as .*train.jsonl line 8; 1 of 4 test questions",
        ):
            gsm8k.load(part, **folder)


def test_test_problems_alone_can_be_evaluated(tmp_path):
    write(tmp_path / "test.jsonl", rows(5))
    assert len(gsm8k.load("test", path=str(tmp_path))) == 5
    with pytest.raises(InputError, match="no train.jsonl in this folder"):
        gsm8k.load("dev", path=str(tmp_path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no problems"),
        (b"\n\n", "holds no problems"),
        (b'{"question": "q", "answer": "#### 1"}\n{"question": ', "line 2: not JSON"),
        (b'{"question": "\xff", "answer": "#### 1"}\n', "line 1: not JSON .*utf-8"),
        (b"[1]\n", "line 1: expected an object, found list"),
        (
            b'{"question": "q", "answer": "#### 1"}\n',
            "1 problems are too few for 8 exemplars, data.dev_size=500",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, says):
    (tmp_path / "my.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=f"my.jsonl.*{says}"):
        gsm8k.load("train", path=str(tmp_path / "my.jsonl"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"path": "missing"}, "missing: no such file or folder to read problems from"),
        ({"test_path": "t.jsonl"}, "t.jsonl: cannot be read"),
        ({"dev_size": 2.5}, "data.dev_size=2.5 must be a whole number"),
        ({"dev_size": 7_465}, "too few for 8 exemplars, data.dev_size=7465"),
    ],
)
def test_settings_that_cannot_be_met(settings, says):
    with pytest.raises(InputError, match=says):
        gsm8k.load("train", **settings)


def test_a_missing_test_file_is_named(folder):
    with pytest.raises(InputError, match="absent.jsonl: cannot be read"):
        gsm8k.load("test", **folder, test_path="absent.jsonl")


def test_the_embedded_problems_are_the_default():
    train, dev, test = (gsm8k.load(split) for split in ("train", "dev", "test"))
    assert [len(train), len(dev), len(test)] == [6_965, 500, 1_319]
    assert not questions(train) & questions(dev) and not questions(train + dev) & questions(test)
    assert [file["path"] for file in gsm8k.files()] == ["nano train (embedded)", "nano test (embedded)"]
    assert all(problem.category and problem.steps for problem in train)


def test_embedded_files_hash_their_rows():
    whole = [*gsm8k.load("test")]
    lines = "".join(f"{dumps({'question': p.question, 'answer': p.solution})}\n" for p in whole)
    assert gsm8k.files()[1]["sha256"] == hashlib.sha256(lines.encode()).hexdigest()


def test_no_network_is_one_clear_line():
    code = (
        "from reckoner.tasks import gsm8k\nfrom reckoner.errors import InputError\n"
        "try:\n    gsm8k.load('test', source='gsm8k')\nexcept InputError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (
        done.stdout.startswith("openai/gsm8k cannot be had from the Hub (") and done.stdout.count("\n") == 1
    )
    assert "data.path=FOLDER" in done.stdout and "data.source=nano" in done.stdout


@pytest.fixture
def hub(monkeypatch):
    """Stands in for the Hub, which tests must not reach: rows as `datasets` returns them."""
    import datasets

    def serve(configs=("main", "socratic"), **splits):
        found = datasets.DatasetDict(
            {name: datasets.Dataset.from_list(content) for name, content in splits.items()}
        )
        monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: list(configs))
        monkeypatch.setattr(datasets, "load_dataset", lambda name, config: found)
        forget()

    def forget():
        gsm8k._parts_once.cache_clear()
        gsm8k._cut_once.cache_clear()

    yield serve
    forget()


def test_a_set_with_one_configuration_of_another_name_is_read_again_without_the_hub(tmp_path, monkeypatch):
    """As a run folder names it: nothing but this machine's cache is asked then."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", rows(40))
    write(tmp_path / "set" / "test.jsonl", rows(8, 100))
    held = {"source": "gsm8k", "hub_name": str(tmp_path / "set"), "dev_size": 4}
    first, again = (gsm8k.files(**held, local_files_only=local) for local in (False, True))
    assert first == again and again[1]["path"] == f"{tmp_path / 'set'} (default) test"


def test_hub_rows_equal_file_rows(hub, folder):
    hub(train=rows(100), test=rows(10, 200))
    online = {"source": "gsm8k", "dev_size": 20}
    for part in ("train", "dev", "test"):
        assert [(p.id, p.solution, p.gold) for p in gsm8k.load(part, **online)] == [
            (p.id, p.solution, p.gold) for p in gsm8k.load(part, **folder)
        ]
    assert [file["sha256"] for file in gsm8k.files(**online)] == [
        file["sha256"] for file in gsm8k.files(**folder)
    ]
    assert gsm8k.files(**online)[0]["path"] == "openai/gsm8k (main) train"


@pytest.mark.parametrize(
    ("configs", "setting", "name"),
    [
        (["default"], "", "default"),
        (["a", "b"], "b", "b"),
        (["main", "socratic"], "", "main"),
        (["x", "main"], "x", "x"),
    ],
)
def test_hub_data_of_any_configuration_and_split_names(hub, configs, setting, name):
    made = [{"q": row["question"], "a": "So it is.", "target": 7} for row in rows(120)]
    hub(configs, learn=made[:100], validation=made[100:])
    settings = {"source": "gsm8k", "hub_name": "my/set", "hub_config": setting, "dev_size": 20}
    settings |= {"hub_train_split": "learn", "hub_test_split": "validation"}
    settings |= {"question_field": "q", "solution_field": "a", "gold_field": "target"}
    assert len(gsm8k.load("train", **settings)) == 72
    assert {(p.gold, p.solution) for p in gsm8k.load("test", **settings)} == {("7", "So it is.\n#### 7")}
    assert [file["path"] for file in gsm8k.files(**settings)] == [
        f"my/set ({name}) learn",
        f"my/set ({name}) validation",
    ]


@pytest.mark.parametrize(("configs", "setting"), [(["a", "b"], ""), (["a", "b"], "c"), (["default"], "c")])
def test_a_hub_configuration_that_is_not_clear_is_asked_for(hub, configs, setting):
    hub(configs, train=rows(100), test=rows(10, 200))
    with pytest.raises(
        InputError, match=rf"my/set: choose a configuration with data.hub_config \({', '.join(configs)}\)"
    ):
        gsm8k.load("train", source="gsm8k", hub_name="my/set", hub_config=setting)


def test_a_local_folder_stands_for_a_hub_name(tmp_path, monkeypatch):
    """Through `datasets` itself, which takes a folder as the name of a data set."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_jsonl(tmp_path / "train.jsonl", rows(40))
    write_jsonl(tmp_path / "test.jsonl", rows(10, 200))
    found = gsm8k.load("test", source="gsm8k", hub_name=str(tmp_path), dev_size=4)
    assert len(found) == 10 and found[0].gold == "201"


def test_questions_with_several_solutions_keep_out_of_dev_and_exemplars_together(tmp_path):
    once = rows(60)
    twice = [{**row, "answer": f"Again: {row['answer']}"} for row in once]
    for name, content in (("one", once), ("two", [*once, *twice])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "train.jsonl", content)
    one, two = ({"path": str(tmp_path / name), "dev_size": 20} for name in ("one", "two"))
    assert gsm8k.exemplars(**one) == gsm8k.exemplars(**two) and gsm8k.load("dev", **one) == gsm8k.load(
        "dev", **two
    )
    train = gsm8k.load("train", **two)
    assert len(train) == len({problem.id for problem in train}) == 64
    assert {p.question for p in train} == {p.question for p in gsm8k.load("train", **one)}


def test_faults_of_train_and_test_are_named_at_once(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"question": "q", "answer": "#### x"}\n{\n')
    (tmp_path / "test.jsonl").write_text('{"question": "q"}\n')
    with pytest.raises(InputError) as caught:
        gsm8k.load("train", path=str(tmp_path))
    places = [line.split(": ")[0].removeprefix(str(tmp_path)) for line in str(caught.value).split("\n")]
    assert places == ["/train.jsonl line 1", "/train.jsonl line 2", "/test.jsonl line 1"]


def test_hub_data_without_a_split_is_refused(hub):
    hub(train=rows(20))
    with pytest.raises(InputError, match=r"openai/gsm8k \(main\) has no split test, only train"):
        gsm8k.load("train", source="gsm8k")
