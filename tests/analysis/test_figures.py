"""Figures: the same bytes for the same input, colours that stay, true titles, and no markup from text."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as xml
from dataclasses import replace
from itertools import combinations

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.analysis import canvas, figures, report
from reckoner.analysis.canvas import (
    DARK,
    HUES,
    PROMPT_HUE,
    Mark,
    address,
    drawing,
    label,
    marks,
    separate,
    standalone,
)
from reckoner.analysis.findings import find
from reckoner.analysis.intervals import wilson
from reckoner.analysis.study_records import read_study
from reckoner.runs.records import write_jsonl

BLUE, GREY = Mark(HUES[0], "o"), Mark(PROMPT_HUE, "s")
HOSTILE = (
    "$\\frac{1}{",
    "<script>alert(1)</script>",
    "a\"b'c&amp;",
    "\x00\x1b[31m\u202eabc\ud800",
    "日本語 ✓",
    "x" * 500,
    "",
    "%s {0} \\n",
)


@pytest.fixture(scope="module")
def pictures(study_path):
    return drawn(study_path)


def drawn(folder):
    """Every figure of a study by its name."""
    return {
        picture.name: picture for one in figures.draw(find(read_study(folder))).values() for picture in one
    }


def texts(svg: str) -> list[str]:
    return [node.text for node in xml.fromstring(svg).iter() if node.tag.endswith("}text") and node.text]


def renamed(found, titles):
    """The findings with as many results as `titles`, which they are called by."""
    results = zip(found.results * len(titles), titles, strict=False)
    return replace(found, results=tuple(replace(r, arm=replace(r.arm, title=title)) for r, title in results))


def scored(found, *counts):
    """The findings of full main with `k` of `n` problems solved, once for each count, all drawn alike."""
    result = next(result for result in found.results if result.arm.name == "full-main")
    results = []
    for k, n in counts:
        low, high = wilson(k, n)
        score = replace(result.score, accuracy=k / n, low=low, high=high)
        results.append(replace(result, score=score, mark=BLUE))
    return replace(found, results=tuple(results))


@pytest.fixture(scope="module")
def found(study_path):
    return find(read_study(study_path))


def inlined(picture) -> str:
    """The SVG that stands in a page."""
    head, _, packed = address(picture).partition("base64,")
    assert head == "data:image/svg+xml;"
    return base64.b64decode(packed).decode()


def test_every_figure_of_a_full_study(pictures):
    assert list(pictures) == [
        "accuracy",
        "effects",
        "unseen",
        "training-loss",
        "dev-accuracy",
        "accuracy-seconds",
        "kinds",
        "accuracy-steps",
    ]


def test_titles_say_the_findings(pictures):
    titles = {name: picture.title.replace("\u00a0", " ") for name, picture in pictures.items()}
    assert titles["accuracy"] == "4 of 4 trained runs do better than the best prompt on 60 test problems"
    # the two pairs of full and LoRA on the same solutions are not told apart
    assert titles["effects"] == "4 of 6 declared comparisons show a difference"
    # of p-02 to p-35, index % 5 is 4 for 7 (4, 9, ..., 34) of the 12 problems of new templates
    assert titles["unseen"] == "Full main solves 58.3 % on new templates, 56.2 % on those seen in training"
    assert titles["training-loss"] == "Training loss falls in every run"
    assert titles["dev-accuracy"] == "Full main rises from 0.0 % to 50.0 % of dev"
    assert titles["accuracy-seconds"] == "Full main reaches 56.7 % after 0:20 of training"
    # 26 of 60 are wrong: 3 cut, 3 without a number, 1 right but for the format (p-50), 19 slips
    assert (
        titles["kinds"]
        == "Full main loses 31.7 % of the problems to slips of arithmetic, 0.0 % to other mistakes"
    )


def test_rows_are_sorted_by_effect_and_the_data_are_those_drawn(pictures):
    head, *rows = pictures["accuracy"].data
    assert head == ["", "accuracy", "low", "high", "flexible"]
    assert [row[0] for row in rows[:3]] == ["full main", "full socratic", "LoRA main"]
    assert rows[0][1:] == [34 / 60, *wilson(34, 60), 35 / 60]
    differences = [row[1] for row in pictures["effects"].data[1:]]
    assert differences == sorted(differences, reverse=True) and differences[0] == pytest.approx(26 / 60)
    assert pictures["kinds"].data[1] == ["full main", 34, 19, 0, 7]
    curve = [row[2:] for row in pictures["dev-accuracy"].data if row[1] == "full main"]
    assert curve == [[0, 0], [5, 5 / 40], [10, 10 / 40], [15, 15 / 40], [20, 20 / 40]]


def test_a_long_curve_is_given_at_150_of_its_steps():
    assert canvas.thinned(467).size == canvas.POINTS and canvas.thinned(467)[[0, -1]].tolist() == [0, 466]
    assert canvas.thinned(3).tolist() == [0, 1, 2]


def test_solutions_of_two_kinds_stand_in_two_panels(pictures):
    assert {"main solutions", "socratic solutions"} <= set(texts(pictures["training-loss"].svg))


def test_a_new_figure_is_one_function_and_stands_in_its_section(study_writer, tmp_path, monkeypatch):
    """Registered once, it is in the page, the Markdown and the files; an unknown section is a bug."""
    monkeypatch.setitem(figures.SECTIONS, "cost", list(figures.SECTIONS["cost"]))

    @figures.figure("cost")
    def mine(found):
        return canvas.finish(canvas.panels("Mine", [100])[0], "mine", "Mine", f"{found.n} problems")

    folder = study_writer(tmp_path / "s", arms=("1shot", "full-main"))
    report.build_report(folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    cost = page[page.index('<section id="cost">') : page.index('<section id="errors">')]
    assert '<figure id="figure-mine">' in cost and page.count('id="figure-mine"') == 1
    assert "![Mine](figures/mine.png)" in (folder / "report.md").read_text(encoding="utf-8")
    assert (folder / "figures" / "mine.svg").is_file()
    with pytest.raises(KeyError):
        figures.figure("costs")(mine)


def test_same_input_same_bytes_and_the_users_settings_stay(pictures, study_path):
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0, "svg.hashsalt": "theirs"}):
        again = drawn(study_path)
        assert matplotlib.rcParams["font.size"] == 30.0
    assert all(
        again[name].svg == picture.svg and again[name].png == picture.png
        for name, picture in pictures.items()
    )
    assert "matplotlib.pyplot" not in vars(figures) and "20" + "26-" not in pictures["accuracy"].svg


def test_svg_is_legal_keeps_text_and_points_inside(pictures):
    for picture in pictures.values():
        for form in (picture.svg, inlined(picture), standalone(picture)):
            root = xml.fromstring(form.partition("?>\n")[2] or form)
            assert not [node for node in root.iter() if node.tag.endswith("}script")]
            addresses = [
                value for node in root.iter() for key, value in node.attrib.items() if key.endswith("href")
            ]
            assert all(address.startswith("#") for address in addresses)
    assert {"full main", "56.7"} <= set(texts(pictures["accuracy"].svg))
    # rows are sorted by the number at their end: of a prompt that with its format forgiven
    ends = [float(text) for text in texts(pictures["accuracy"].svg) if re.fullmatch(r"\d+\.\d", text)]
    assert ends == sorted(ends, reverse=True) and len(ends) == 8 and 13.3 in ends


def test_a_page_prints_the_title_itself(pictures):
    """The view of the image begins below the title, whose two lines and margin are 40 points high."""
    left, top, width, height = re.search(r'viewBox="([\d. ]+)"', inlined(pictures["accuracy"]))[1].split()
    whole = float(re.search(r'viewBox="0 0 420 ([\d.]+)"', pictures["accuracy"].svg)[1])
    assert (left, top, width) == ("0", "40", "420") and float(height) == whole - 40


def test_figures_follow_the_readers_theme(pictures):
    page = standalone(pictures["accuracy"])
    assert f'[style*="fill: {canvas.INK}"]{{fill:{DARK[canvas.INK]} !important}}' in page
    assert "prefers-color-scheme:dark" in page
    used = set(re.findall(r"(?:fill|stroke): (#\w{6})", page.partition("</style>")[2]))
    assert used <= set(DARK) | set(HUES) | {PROMPT_HUE}


def oklab(colour: str) -> list[float]:
    """A colour in Ottosson's space, where equal distances look about equal."""
    r, g, b = linear(colour)
    cones = (
        0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
        0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
        0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
    )
    long, middle, short = (value ** (1 / 3) for value in cones)
    return [
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    ]


@pytest.mark.parametrize("palette", [HUES, [DARK.get(hue, hue) for hue in HUES]], ids=["light", "dark"])
def test_no_two_arms_look_alike(palette):
    for one, other in combinations(palette, 2):
        assert sum((a - b) ** 2 for a, b in zip(oklab(one), oklab(other), strict=True)) ** 0.5 > 0.11


def linear(colour: str) -> list[float]:
    return [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    ]


def luminance(colour: str) -> float:
    r, g, b = linear(colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_first_hues_can_be_seen_on_light_and_dark():
    dark = DARK[canvas.PAPER]
    for ink in (canvas.INK, canvas.MUTED):
        assert contrast(ink, canvas.PAPER) >= 4.5 and contrast(DARK[ink], dark) >= 4.5
    for hue in (*HUES[:6], PROMPT_HUE):
        assert contrast(hue, canvas.PAPER) >= 2.9 and contrast(DARK.get(hue, hue), dark) >= 2.9


def test_marks_are_never_shared():
    found = marks([False] * 4 + [True] * 8)
    assert [mark.colour for mark in found[:4]] == [PROMPT_HUE] * 4 and [
        mark.colour for mark in found[4:]
    ] == list(HUES)
    assert len(set(found)) == 12 and [mark.marker for mark in found[4:]] == [*canvas.MARKS, "o", "s"]
    assert marks([True, False, True])[0] == marks([False, True, True])[1] == BLUE


def test_label_is_one_legal_line():
    assert (
        label("a\nb\t c") == "a b c"
        and label("\u202eabc\x00") == "abc"
        and label("x" * 30, 10) == "x" * 9 + "…"
    )


@given(st.text())
def test_label_never_holds_control_characters(text):
    shown = label(text)
    assert len(shown) <= 60 and not re.search(r"[\0-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)


def test_hostile_names_are_only_text(learned_path, pictures):
    tags = {node.tag for known in pictures.values() for node in xml.fromstring(known.svg).iter()}
    sections = figures.draw(renamed(find(read_study(learned_path)), HOSTILE)).values()
    hostile = [picture for section in sections for picture in section]
    assert len(hostile) == 9
    for picture in hostile:
        assert {node.tag for node in xml.fromstring(picture.svg).iter()} <= tags
        assert picture.png.startswith(b"\x89PNG")


def test_a_title_counts_the_arms_that_are_drawn_or_says_which_it_counts(found):
    trained = [one for one in found.results if one.arm.method != "prompt"]
    control = replace(trained[0], pair=None)
    fewer = replace(found, results=tuple(control if one is trained[0] else one for one in found.results))
    with drawing():
        picture = figures.accuracy(fewer)
    assert len(trained) == 4 and picture.title == (
        "3 of 3 trained runs with a declared comparison do better than the best prompt on 60 test problems"
    )


@pytest.mark.parametrize("figure", [figures.accuracy, figures.dev_accuracy])
def test_a_long_name_takes_two_lines_and_is_not_cut(found, figure):
    name = "own right samples (GRPO from full main)"
    trained = [one.arm.name for one in found.results].index("full-main")
    with drawing():
        picture = figure(renamed(found, ["a prompt"] * trained + [name]))
    drawn = texts(picture.svg)
    at = drawn.index("own right samples (GRPO")
    assert drawn[at + 1] == "from full main)" and not any("…" in text for text in drawn)


def test_what_is_not_told_apart_is_hollow(pictures):
    """The title counts 4 of 6 comparisons as differences, so four marks are filled and two are not."""
    root = xml.fromstring(pictures["effects"].svg)
    styles = [node.get("style", "") for node in root.iter() if node.tag.endswith("}use")]
    dots = [style for style in styles if any(hue in style for hue in HUES)]
    assert len(dots) == 6 and sum("fill: none" in style or "fill-opacity: 0" in style for style in dots) == 2


def test_one_problem_and_nothing_right(found):
    with drawing():
        picture = figures.accuracy(scored(found, (0, 1)))
    assert "0.0" in texts(picture.svg)


def dots_of(picture) -> list[xml.Element]:
    root = xml.fromstring(picture.svg)
    filled = f"fill: {BLUE.colour}"
    return [n for n in root.iter() if n.tag.endswith("}use") and filled in n.get("style", "")]


def test_a_mark_on_the_edge_is_drawn_whole(found):
    """Nothing right stands on the axis itself, which cuts off what is drawn beyond it."""
    with drawing():
        picture = figures.accuracy(scored(found, (0, 100), (50, 100)))
    root = xml.fromstring(picture.svg)
    clipped = {child.get("x") for group in root.iter() if group.get("clip-path") for child in group}
    dots = dots_of(picture)
    assert len(dots) == 2 and not {dot.get("x") for dot in dots} & clipped


def test_interval_is_drawn_where_wilson_puts_it(found):
    """The bar of 5 of 10 runs from 23.7 to 76.3 on an axis that ends at 1.04 times the latter."""
    with drawing():
        picture = figures.accuracy(scored(found, (5, 10)))
    bar = re.search(rf'd="([^"]*)"[^>]*stroke: {BLUE.colour}; stroke-opacity: 0.45', picture.svg)[1]
    x = [float(value) for value in re.findall(r"[ML] ([\d.]+)", bar)]
    (dot,) = dots_of(picture)
    low, high = wilson(5, 10)
    assert (float(dot.get("x")) - x[0]) / (x[1] - x[0]) == pytest.approx((0.5 - low) / (high - low), abs=1e-3)


def test_rising_loss_is_said(found):
    result = next(result for result in found.results if result.arm.name == "lora-main")
    run = replace(result.run, metrics=({"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0}))
    with drawing():
        picture = figures.training_loss(replace(found, results=(replace(result, run=run),)))
    assert picture.title == "Training loss did not fall in LoRA main"


def test_reinforcement_is_drawn_where_it_is_logged(study_writer, tmp_path):
    folder = study_writer(tmp_path / "s", arms=("1shot", "full-main", "grpo"))
    lines = [{"step": 0, "dev_strict": 10, "dev_n": 40}]
    lines += [
        {
            "step": s,
            "reward": 0.2 + 0.01 * s,
            "kl_reference": 0.001 * s,
            "entropy": 0.5,
            "length": 30.0,
            "format_rate": 0.9,
        }
        for s in range(1, 41)
    ]
    write_jsonl(folder / "grpo" / "metrics.jsonl", [*lines, {"step": 40, "dev_strict": 30, "dev_n": 40}])
    found = drawn(folder)
    assert found["policy"].title == "GRPO from full main: reward from 0.21 to 0.60"
    assert {title for title, _ in figures.SIGNALS.values()} <= set(texts(found["policy"].svg))
    assert (
        found["dev-accuracy"].title.replace("\u00a0", " ")
        == "GRPO from full main rises from 25.0 % to 75.0 % of dev"
    )


def test_running_mean_and_its_window():
    assert canvas.running_mean([4, 2, 0, 2], 2).tolist() == [4, 3, 1, 1]
    assert canvas.running_mean([1, 2, 3], 1).tolist() == [1, 2, 3]
    assert [canvas.smoothing(n) for n in (1, 19, 40, 467)] == [1, 1, 2, 23]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=12).map(sorted), st.floats(0.1, 20))
def test_labels_keep_order_and_distance(wanted, gap):
    placed = separate(wanted, gap)
    assert len(placed) == len(wanted)
    assert all(b - a >= gap * (1 - 1e-9) for a, b in zip(placed, placed[1:], strict=False))
    assert sum(placed) == pytest.approx(sum(wanted), abs=1e-6)


def test_labels_leave_alone_what_does_not_touch():
    assert separate([0, 10, 20], 5) == [0, 10, 20]
    assert separate([0, 1, 20], 5) == [-2, 3, 20]


def test_lines_are_few_and_of_controls_last(found, monkeypatch):
    monkeypatch.setattr(figures, "LINES", 2)
    trained = [result for result, _ in found.trained]
    control = replace(trained[0], arm=replace(trained[0].arm, control_of="lora-main"))
    drawn = figures.followed([control, *trained[1:]])
    # of the others full socratic solves 32 of 60, LoRA main 31 and LoRA socratic 26
    assert [one.title for one in drawn] == ["full socratic", "LoRA main"]
    assert figures._left_out(trained) == " 2 arms stand in the tables alone."


def test_only_the_chosen_figures_are_drawn(found):
    drawn = figures.draw(found, {figures.kinds})
    assert [one.name for several in drawn.values() for one in several] == ["kinds"]
