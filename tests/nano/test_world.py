"""The files of the embedded world: a new template is data alone, and faulty data are named."""

import re

import pytest

from reckoner import nano
from reckoner.errors import InputError
from reckoner.nano.generator import tell
from reckoner.nano.world import load

WORLD = """
people: {Zoe Yara: {he: she, his: her, him: her}, Xaver: {he: he, his: his, him: him}}
nouns: {tool: {a saw: saws, an axe: axes}}
tables: {times: {2: twice, other: '# times'}}
unseen: [nails]
"""
NAILS = """
nails:
  about: Boxes of nails, some of them used.
  category: workshop
  draw:
    who: person
    tool: tool
    boxes: 3..3
    each: 20..40 step 20
  steps:
    total: How many nails are there? ** {who} has [{boxes}*{each}] nails.
    answer: How many nails are left? ** {who.He} has [{total}-7] nails left.
  forms:
  - '{who} buys {boxes} boxes of {each} nails and {tool.a}. 7 nails are used. How many nails are left?'
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "world.yaml").write_text(WORLD)
    (tmp_path / "templates" / "workshop.yaml").write_text(NAILS)
    return tmp_path


def test_a_template_that_is_added_as_data_makes_problems(folder):
    world = load(folder)
    assert list(world.templates) == ["nails"] and world.templates["nails"].category == "workshop"
    assert world.unseen == ("nails",)
    questions = set()
    for i in range(60):
        story = tell(world, "nails", f"{i}")
        question = story.question.replace("Seven", "7").replace("three", "3")
        match = re.fullmatch(
            r"(Zoe|Yara|Xaver) buys 3 boxes of (20|40) nails and (a saw|an axe)\. 7 nails are used\. "
            r"How many nails are left\?",
            question,
        )
        who, each, total = match[1], match[2], 3 * int(match[2])
        pronoun = "He" if who == "Xaver" else "She"
        assert story.answer == total - 7 and story.solution("socratic") == (
            f"How many nails are there? ** {who} has 3*{each}=<<3*{each}={total}>>{total} nails.\n"
            f"How many nails are left? ** {pronoun} has {total}-7=<<{total}-7={total - 7}>>{total - 7} "
            "nails left.\n"
            f"#### {total - 7}"
        )
        questions.add(question)
    assert len(questions) == 12


def test_a_template_beside_the_embedded_ones_comes_out_of_the_stream(folder, monkeypatch):
    added = {**nano.WORLD.templates, **load(folder).templates}
    world = nano.world.World(
        nano.WORLD.groups | load(folder).groups, nano.WORLD.tables, added, nano.WORLD.unseen
    )
    monkeypatch.setattr(nano, "reserved_hashes", frozenset)
    monkeypatch.setattr(nano, "WORLD", world)
    monkeypatch.setattr(nano, "TEMPLATES", tuple(added))
    (problem,) = nano.stream(1, 3, "main", templates=["nails"])
    assert (problem.template, problem.category, problem.steps, problem.unseen) == (
        "nails",
        "workshop",
        2,
        False,
    )
    assert problem.gold in {"53", "113"}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("draw:", "drew:"), "unknown operation 'drew'; the operations are about, category, least, draw, "),
        (("category: workshop", "least: 1"), "category is missing"),
        (("forms:", "aside:"), "forms is missing"),
        (("each: 20..40 step 20", "who: 2..3"), "who stands twice"),
        (("    answer:", "    each:"), "steps: each has a value already"),
        (("tool: tool", "off: tool"), "draw: put the name False in quotation marks"),
        (("category: workshop", "category: workshop\n  least: low"), "least must be an integer"),
        (("category: workshop", "category: workshop\n  require: 2 > 1"), "require must be a list"),
        (("category: workshop", "category: workshop\n  either: [{forms: []}]"), "unknown operation 'forms'"),
        (("category: workshop", "category: workshop\n  either: [none]"), "either cannot hold 'none'"),
        (("category: workshop", "category: workshop\n  let: {n: 5}"), "let cannot hold 5; put a text in"),
        (("category: workshop", "category: workshop\n  require: [true]"), "require cannot hold True"),
        (("    boxes: 3..3", "    boxes: 3"), "draw cannot hold 3"),
        (("    tool: tool", "    aside: tool"), "draw: aside has a value already"),
        (("category: workshop", "category: workshop\n  aside: []"), "aside must be a list with entries"),
        (("category: workshop", "category: workshop\n  whether: 2 > 1"), "whether needs either with two"),
        (("\nnails:\n", "\nnails: 5\nscrews:\n"), "template nails: must be a mapping of operations"),
        ((NAILS, "- nails"), "must hold a mapping of names"),
        (("'{who} buys", "'{who} buys'"), "expected"),
    ],
)  # fmt: skip
def test_faulty_data_are_refused_when_they_are_read(folder, change, fault):
    path = folder / "templates" / "workshop.yaml"
    assert change[0] in NAILS
    path.write_text(NAILS.replace(*change, 1))
    with pytest.raises(InputError) as refused:
        load(folder)
    assert str(refused.value).startswith("workshop.yaml: ") and fault in str(refused.value)


def test_a_template_of_two_files_and_an_unknown_unseen_one_are_refused(folder):
    (folder / "templates" / "again.yaml").write_text(NAILS)
    with pytest.raises(
        InputError, match="^workshop.yaml: template nails: again.yaml has a template of this name$"
    ):
        load(folder)
    (folder / "templates" / "again.yaml").unlink()
    (folder / "world.yaml").write_text(WORLD.replace("[nails]", "[screws]"))
    with pytest.raises(InputError, match="^world.yaml: unseen: there is no template screws$"):
        load(folder)


def test_files_that_are_no_yaml_are_not_read(folder):
    (folder / "templates" / "README.md").write_text("not: [a template")
    assert list(load(folder).templates) == ["nails"]


def test_the_vocabulary_is_small_and_regular():
    assert len(set(nano.PEOPLE)) == len(nano.PEOPLE) == 32 and not any(
        name.endswith("s") for name in nano.PEOPLE
    )
    assert nano.PEOPLE[:2] == ("Anna", "Beth") and nano.PEOPLE[-1] == "Tom"
    nouns = {group: words for group, words in nano.WORLD.groups.items() if group != "person"}
    singulars = [word[".a"] for words in nouns.values() for word in words]
    assert len(set(singulars)) == len(singulars) < 60
    assert all((a.startswith("an ")) == (a.split(" ", 1)[1][0] in "aeiou") for a in singulars)
    assert nouns["fruit"][3] == {"": "peaches", ".a": "a peach", ".A": "A peach"}
    assert nano.WORLD.groups["person"][0] == {
        "": "Anna", ".he": "she", ".his": "her", ".him": "her", ".He": "She", ".His": "Her", ".Him": "Her",
    }  # fmt: skip
