"""Each shipped set is consistent; real files are read whole and every gold is right against itself."""

from pathlib import Path

import pytest

from reckoner.cli import main
from reckoner.config import load_config, suites
from reckoner.config.suites import known_files, read_suite, suite_names
from reckoner.errors import InputError
from reckoner.runs.records import Completion
from reckoner.tasks import gsm8k
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.prompts import Prompt

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
FILES = {
    "aqua": ("suites/aqua_test.jsonl", 254),
    "asdiv/xml": ("suites/asdiv.xml", 2_305),
    "commonsenseqa/jsonl": ("suites/commonsenseqa_dev.jsonl", 1_221),
    "gsm-hard": ("suites/gsm_hard.jsonl", 1_319),
    "gsm-plus": ("suites/gsm_plus_testmini.jsonl", 2_400),
    "math-500": ("suites/math500.json", 500),
    "mawps/addsub": ("suites/mawps_addsub.jsonl", 395),
    "mawps/multiarith": ("suites/mawps_multiarith.jsonl", 600),
    "mawps/singleeq": ("suites/mawps_singleeq.jsonl", 508),
    "mawps/singleop": ("suites/mawps_singleop.jsonl", 562),
    "mgsm/de": ("suites/mgsm_de.tsv", 250),
    "mgsm/es": ("suites/mgsm_es.tsv", 250),
    "mgsm/fr": ("suites/mgsm_fr.tsv", 250),
    "mgsm/ru": ("suites/mgsm_ru.tsv", 250),
    "svamp": ("svamp/SVAMP.json", 1_000),
}


def test_every_suite_resolves_and_says_what_it_is():
    names = suite_names()
    assert len(names) == 38 and {"gsm8k/socratic", "mgsm/te", "drop", "mmlu"} < set(names)
    for name in names:
        config, about = load_config("", [], [f"data.suite={name}"]), read_suite(name).about
        assert config.data.source == "hub" and config.data.suite == name
        assert {"title", "licence", "source"} <= about.keys(), name


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_read_whole_and_each_gold_is_right_against_itself(name):
    path, count = SHARED / FILES[name][0], FILES[name][1]
    if not path.is_file():
        pytest.skip("the real sets are not beside the checkout (shared/data)")
    config = load_config("", [], [f"data.suite={name}", f"data.test_path={path}"])
    source = config.problem_source()
    problems = gsm8k.load("test", **source)
    about = read_suite(name).about
    assert len(problems) == count == about["counts"].get("file", about["counts"].get("test"))
    assert len({problem.id for problem in problems}) == count
    assert gsm8k.files(**source)[0]["published"] in about["sha256"]
    assert {problem.source for problem in problems} == {name}
    form = config.prompt.answer_format
    prompt = Prompt(answer_format=form)
    for problem in problems:
        said = Completion(problem.id, 0, "", prompt.answer(problem.solution), 0, "stop", 0.0, "", form)
        verdict = grade(said, problem)
        assert verdict.strict, (problem.id, problem.gold, verdict)
        assert verdict.flexible or "/" in problem.gold, "R13: a fraction ends in its denominator"


EMPTY = {"day": "", "month": "", "year": ""}
ARC = {"question": "What melts ice?", "choices": {"text": ["heat", "cold", "wind"], "label": ["A", "B", "C"]}}
"""The fields of the sets that only the Hub has, with rows of ours: what a row is there, and becomes."""
ONLY_ON_THE_HUB = {
    "gsm8k-platinum": (
        [{"question": "1+1?", "answer": "1+1=2\n#### 2", "cleaning_status": "verified"}],
        [("1+1?", (), "2", "verified", "")],
    ),
    "gsm-symbolic/p1": (
        [
            {"id": 0, "instance": n, "question": f"{n}+1?", "answer": f"#### {n + 1}", "original_id": 1276}
            | {"original_question": "5+1?", "original_answer": "#### 6", "canary": "none"}
            for n in range(2)
        ],
        [("0+1?", (), "1", "", "1276"), ("1+1?", (), "2", "", "1276")],
    ),
    "mathqa": (
        [
            {
                "Problem": "4 : 2 , at its lowest ?",
                "Rationale": "answer b",
                "correct": "b",
                "category": "other",
            }
            | {"options": "a ) 1 : 2 , b ) 2 : 1 , c ) 3 : 1 , d ) , e ) 1 , 000"}
        ],
        [("4 : 2 , at its lowest ?", ("1 : 2", "2 : 1", "3 : 1", "", "1 , 000"), "B", "other", "")],
    ),
    "multiarith": ([{"question": " 2+3? ", "final_ans": "5"}], [(" 2+3? ", (), "5", "", "")]),
    "drop": (
        [
            {"section_id": "s", "query_id": "1", "passage": "Ann, 7, and Bo met.", "question": "Who met?"}
            | {"answer": {"number": "", "date": EMPTY, "spans": ["Ann", "Bo"]}}
            | {"validated_answers": {"number": ["2"], "date": [EMPTY], "spans": [[]]}}
        ],
        [("Ann, 7, and Bo met.\n\nWho met?", (), '[["Ann", "Bo"], ["2"]]', "", "")],
    ),
    "arc-easy": (
        [{"id": "x", **ARC, "answerKey": "A"}],
        [(ARC["question"], ("heat", "cold", "wind"), "A", "", "")],
    ),
    "arc-challenge": (
        [{"id": "x", **ARC, "choices": {"text": ["1 g", "2 g"], "label": ["1", "2"]}, "answerKey": "2"}],
        [(ARC["question"], ("1 g", "2 g"), "B", "", "")],
    ),
    "mmlu": (
        [{"question": "1+0.5?", "subject": "maths", "choices": ["1.5", "2.5", "3.5", "4.5"], "answer": 0}],
        [("1+0.5?", ("1.5", "2.5", "3.5", "4.5"), "A", "maths", "")],
    ),
    "commonsenseqa": (
        [{"id": "x", **ARC, "question_concept": "ice", "answerKey": "A"}],
        [(ARC["question"], ("heat", "cold", "wind"), "A", "", "")],
    ),
}


@pytest.mark.parametrize("name", ONLY_ON_THE_HUB)
def test_a_row_of_the_hub_becomes_a_problem_whose_gold_is_right(name, monkeypatch):
    import datasets

    rows, expected = ONLY_ON_THE_HUB[name]
    config = load_config("", [], [f"data.suite={name}", "data.hub_train_split="])
    data, asked = config.data, []
    found = datasets.DatasetDict({data.hub_test_split: datasets.Dataset.from_list(rows)})
    configs = [data.hub_config or "default"]
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, revision=None: configs)
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **pin: asked.append((names, pin)) or found)
    gsm8k._parts_once.cache_clear()
    problems = gsm8k.load("test", **config.problem_source())
    gsm8k._parts_once.cache_clear()
    pin = {"revision": data.hub_revision} if data.hub_revision else {}
    assert asked == [((data.hub_name, configs[0]), pin)]
    assert [
        (p.question.partition("\n(A)")[0], p.choices, p.gold, p.category, p.template) for p in problems
    ] == (expected)
    for problem in problems:
        said = Completion(problem.id, 0, "", problem.solution, 0, "stop", 0.0, "", "####")
        assert grade(said, problem).strict and grade(said, problem).flexible, problem
        wrong = "#### 9" if problem.kind == "number" else "#### Cy" if problem.kind == "span" else "#### C"
        said = Completion(problem.id, 0, "", wrong, 0, "stop", 0.0, "", "####")
        assert not grade(said, problem).strict
    assert len({problem.id for problem in problems}) == len(rows)


def test_a_part_inherits_and_a_file_of_the_users_may_start_from_a_set(tmp_path):
    german = read_suite("mgsm/de")
    assert german.layer["data"]["hub_config"] == "de" and german.about["licence"] == "CC BY 4.0"
    own = tmp_path / "mine.yaml"
    own.write_text("suite: svamp\ndata: {test_path: my.json}\nabout: {title: My file}\n")
    suite = read_suite(str(own))
    assert (suite.name, suite.layer["data"]["gold_field"], suite.layer["data"]["test_path"]) == (
        "mine",
        "Answer",
        "my.json",
    )
    assert suite.about["title"] == "My file" and suite.about["licence"] == "MIT"


def test_what_the_user_says_lies_over_the_suite_whatever_its_place():
    both = ["data.hub_test_split=test", "data.suite=gsm-plus"]
    for settings in (both, both[::-1]):
        config = load_config("general", [], settings)
        assert (config.data.hub_test_split, config.data.gold_field) == ("test", "answer")
        assert config.eval.max_new_tokens == 512
    boxed = load_config("", [], ["data.suite=math-500"])
    assert boxed.prompt.answer_format == "boxed" and boxed.prompt.instruction.endswith(r"\boxed{}.")


def test_a_stored_configuration_needs_its_suite_no_more(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("suite: svamp\n")
    stored = tmp_path / "config.yaml"
    stored.write_text(load_config("", [], [f"data.suite={own}"]).to_yaml())
    own.unlink()
    read_suite.cache_clear()
    assert load_config("", [stored]).data.gold_field == "Answer"


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("svam", "data.suite=svam is not a known set (did you mean svamp?)"),
        ("mgsm/xx", "mgsm has the parts bn, de"),
        ("../x", "is not a known set"),
        (
            "absent.yaml",
            "absent.yaml: cannot be read (No such file or directory)",
        ),
    ],
)
def test_an_unknown_suite_is_named(setting, says):
    with pytest.raises(InputError) as caught:
        load_config("", [], [f"data.suite={setting}"])
    assert says in str(caught.value)


def test_a_suite_has_only_sections_that_are_known(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("datas: {path: x}\n")
    with pytest.raises(InputError, match="datas is no section of a suite"):
        read_suite(str(own))
    own.write_text("data: {pth: x}\n")
    _forget()
    with pytest.raises(InputError, match=r"data.pth is not a setting .*mine.yaml:1"):
        load_config("", [], [f"data.suite={own}"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("suite: mine.yaml\n", "mine.yaml starts from mine.yaml: a set cannot start from itself"),
        ("suite: ./mine.yaml\n", "./mine.yaml starts from ./mine.yaml: a set cannot start from itself"),
        ("suite: 3\n", "mine.yaml: suite: expected `str`, got `int`"),
        ("suite: [a]\n", "mine.yaml: suite: expected `str`, got `array`"),
        ("suite: {a: 1}\n", "mine.yaml: suite: expected `str`, got `object`"),
        ("parts: 3\n", "mine.yaml: parts: expected `object`, got `int`"),
        ("parts: [a]\n", "mine.yaml: parts: expected `object`, got `array`"),
        ("parts: {a: 3}\n", "expected `object`, got `int`"),
        ("parts: {a: {about: 3}}\n", "about: expected `object`, got `int`"),
        ("about: x\n", "mine.yaml: about: expected `object`, got `str`"),
        ("about: {sha256: 3}\n", "mine.yaml: about.sha256: expected `object`, got `int`"),
        ("about: {counts: 3}\n", "mine.yaml: about.counts: expected `object`, got `int`"),
        ("about: {counts: {train: x}}\n", "expected `int`, got `str`"),
        ("about: {counts: {train: 0}}\n", "expected `int` >= 1"),
        (f"about: {{counts: {{train: {'9' * 40}}}}}\n", "expected `int`"),
    ],
)
@pytest.mark.parametrize("verb", [["data", "stats"], ["plan"]])
def test_a_file_of_a_set_that_says_something_else_is_named(tmp_path, monkeypatch, capsys, verb, text, says):
    monkeypatch.chdir(tmp_path)
    for remembered in (suites.read_suite, suites._document):
        remembered.cache_clear()  # by a name that is another file in each folder
    Path("mine.yaml").write_text(text)
    assert main([*verb, "data.suite=mine.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("reckon: ") and says in error and error.count("\n") == 1


def _forget():
    from reckoner.config import suites

    suites._document.cache_clear()
    read_suite.cache_clear()


def test_known_files_are_named():
    test = "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14"
    assert known_files()[test] == ("gsm8k", "GSM8K main test")


def test_a_set_that_is_not_on_the_hub_asks_for_its_file():
    config = load_config("", [], ["data.suite=mawps/addsub"])
    with pytest.raises(InputError, match="mawps/addsub is not on the Hub. Name its file with data.test_path"):
        gsm8k.load("test", **config.problem_source())
