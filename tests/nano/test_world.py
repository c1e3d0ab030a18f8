"""The files of the embedded world: a new relation is data alone, and faulty data are named."""

import hashlib
import re

import pytest

from reckoner import nano
from reckoner.errors import InputError
from reckoner.nano.generator import tell
from reckoner.nano.world import MOST_RELATIONS, MOST_STEPS, TEMPLATES_A_GROUP, load

WORLD = """
people: {Zoe Yara: {he: she, his: her, him: her}, Xaver: {he: he, his: his, him: him}}
nouns: {tool: [saws, axes]}
tables: {times: {2: twice, other: '# times'}}
"""
NAILS = """
kinds:
  nails:
    ask:
    - How many nails are left?
relations:
  buys:
    to: nails
    draw:
      a: person
      boxes: 3..3
      each: 20..40 step 20
      tool: tool
    say:
    - '{a} buys {boxes} boxes of {each} nails and {tool}.'
    steps:
      x: How many nails are there? ** {a} has [{boxes}*{each}] nails.
  uses:
    from: [nails]
    to: nails
    say:
    - 7 nails are used.
    steps:
      x: How many nails are left? ** {a.He} has [{x}-7] nails left.
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "relations").mkdir()
    (tmp_path / "world.yaml").write_text(WORLD)
    (tmp_path / "relations" / "workshop.yaml").write_text(NAILS)
    return tmp_path


def test_relations_that_are_added_as_data_make_problems(folder):
    world = load(folder)
    assert world.templates == {"buys-uses": ("buys", "uses")} and world.unseen == frozenset()
    questions = set()
    for i in range(60):
        story = tell(world, "buys-uses", f"{i}")
        question = story.question.replace("Seven", "7").replace("three", "3")
        match = re.fullmatch(
            r"(Zoe|Yara|Xaver) buys 3 boxes of (20|40) nails and (saws|axes)\. 7 nails are used\. "
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


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("draw:", "drew:"), "buys: unknown part 'drew'; the parts are from, to, fact, least, draw, "),
        (("    ask:", "    asks:"), "nails: unknown part 'asks'; the parts are ask, aside"),
        (("each: 20..40 step 20", "a: 2..3"), "a stands twice"),
        (("tool: tool", "off: tool"), "buys: draw: put the name False in quotation marks"),
        (("    to: nails", "    to: screws"), "buys: there is no kind screws"),
        (("from: [nails]", "from: [screws]"), "uses: there is no kind screws"),
        (("    to: nails", "    to: nails\n    least: low"), "buys: least must be a int"),
        (("    to: nails", "    to: nails\n    require: 2 > 1"), "buys: require must be a list"),
        (("    to: nails", "    to: nails\n    require: [true]"), "buys: require cannot hold True"),
        (("    to: nails", "    to: nails\n    ask: []"), "buys: ask must be a list, and not empty"),
        (("boxes: 3..3", "boxes: 3"), "buys: draw cannot hold 3; put a text in quotation marks"),
        (("\n  buys:\n", "\n  sells: 5\n  buys:\n"), "sells: must be a mapping of from, to, "),
        (("relations:", "relation:"), "has kinds and relations, not relation"),
        ((NAILS, "- nails"), "must hold a mapping of names"),
        (("'{a} buys", "'{a} buys'"), "expected"),
    ],
)  # fmt: skip
def test_faulty_data_are_refused_when_they_are_read(folder, change, fault):
    path = folder / "relations" / "workshop.yaml"
    assert change[0] in NAILS
    path.write_text(NAILS.replace(*change, 1))
    with pytest.raises(InputError) as refused:
        load(folder)
    assert str(refused.value).startswith("workshop.yaml: ") and fault in str(refused.value)


def test_an_entry_of_two_files_is_refused_and_other_files_are_not_read(folder):
    (folder / "relations" / "README.md").write_text("not: [a relation")
    assert list(load(folder).relations) == ["buys", "uses"]
    (folder / "relations" / "again.yaml").write_text(NAILS)
    with pytest.raises(InputError, match=r"^workshop.yaml: nails: another file has an entry of this name$"):
        load(folder)


def test_templates_are_chains_whose_kinds_fit_and_are_chosen_by_hash():
    relations, groups, lengths = nano.WORLD.relations, {}, {}
    for name, path in nano.WORLD.templates.items():
        assert name == "-".join(path) and 2 <= len(path) == len(set(path)) <= MOST_RELATIONS
        assert 2 <= sum(len(relations[one].get("steps", ())) for one in path) <= MOST_STEPS
        assert "from" not in relations[path[0]]
        for before, after in zip(path, path[1:], strict=False):
            assert relations[before]["to"] in relations[after]["from"]
        group = (relations[path[0]]["file"], len(path), path[-1])
        groups.setdefault(group, []).append(name)
        lengths.setdefault(group[:2], []).append(name)
    assert max(map(len, groups.values())) == TEMPLATES_A_GROUP
    for names in lengths.values():
        ordered = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
        assert [name for name in ordered if name in nano.WORLD.unseen] == ordered[4::5]


def test_every_relation_and_most_neighbours_of_unseen_chains_occur_in_seen_ones():
    pairs = {
        pair
        for name in nano.SEEN_TEMPLATES
        for pair in zip(nano.WORLD.templates[name], nano.WORLD.templates[name][1:], strict=False)
    }
    assert {one for pair in pairs for one in pair} == set(nano.RELATIONS)
    unseen = [
        pair
        for name in nano.UNSEEN_TEMPLATES
        for pair in zip(nano.WORLD.templates[name], nano.WORLD.templates[name][1:], strict=False)
    ]
    assert sum(pair in pairs for pair in unseen) / len(unseen) > 0.85


def test_the_vocabulary_is_small_and_regular():
    assert len(set(nano.PEOPLE)) == len(nano.PEOPLE) == 32
    assert not any(name.endswith("s") for name in nano.PEOPLE)
    assert nano.PEOPLE[:2] == ("Anna", "Beth") and nano.PEOPLE[-1] == "Tom"
    words = [word[""] for group, nouns in nano.WORLD.groups.items() if group != "person" for word in nouns]
    assert len(set(words)) == len(words) < 60
    assert all(word[""].endswith("s") for word in nano.WORLD.groups["thing"])
    assert nano.WORLD.groups["person"][0] == {
        "": "Anna", ".he": "she", ".his": "her", ".him": "her", ".He": "She", ".His": "Her", ".Him": "Her",
    }  # fmt: skip
