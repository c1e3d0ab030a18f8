"""What reaches a terminal: no control code from text, nothing lost in a narrow window, plain lines in a
pipe.
"""

import io
import os
import pty
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.console import (
    Progress,
    _fit,
    _print_line,
    clock,
    escape,
    print_json,
    print_tokens,
    progress,
    sparkline,
    table,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]8;;http://a\x07link", "\\x1b]8;;http://a\\x07link"),
        ("\x9b31m", "\\x9b31m"),
        ("over\rwritten\x08\x7f", "over\\x0dwritten\\x08\\x7f"),
        ("abc\u202edcba\u2066", "abc\\u202edcba\\u2066"),
        ("a\u2028b\u200bc", "a\\u2028b\\u200bc"),
        ("\ud83d", "\\ud83d"),
        ("\U000e0041", "\\U000e0041"),
        ("½ of 3×4’s [bold] 的 😀", "½ of 3×4’s [bold] 的 😀"),
        ("two\n\tlines", "two\n\tlines"),
    ],
)
def test_escape(text, shown):
    assert escape(text) == shown


def test_escape_can_keep_one_line():
    assert escape("a\n\tb", newlines=False) == "a\\n\\tb"


@given(st.text(st.characters(codec=None, categories=None)))
def test_escaped_text_is_inert_and_escaping_it_again_changes_nothing(text):
    safe = escape(text)
    assert not [c for c in safe if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} and c not in "\n\t"]
    assert not [
        c
        for c in safe
        if unicodedata.bidirectional(c) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    ]
    assert escape(safe) == safe
    safe.encode("utf-8")


def test_a_piped_table_is_plain_aligned_and_never_cut():
    out = io.StringIO()
    table(
        ["arm", "accuracy"], [["a" * 150, "7.1 %"], ["[red]b\x1b", 55], ["c", None]], title="nano", file=out
    )
    assert out.getvalue().splitlines() == [
        "nano",
        f"{'arm':150}  accuracy",
        f"{'a' * 150}     7.1 %",
        f"{'[red]b' + chr(92) + 'x1b':150}        55",
        "c",
    ]


def test_wide_and_combining_characters_take_their_columns():
    out = io.StringIO()
    table(["arm", "answer", "n"], [["\u6570\u5b66", "e\u0301t", 5], ["a", "", 12]], file=out)
    lines = ["arm   answer   n", "\u6570\u5b66  e\u0301t       5", "a             12"]
    assert out.getvalue().splitlines() == lines


def test_a_table_on_a_terminal_has_a_bold_header_and_needs_no_library():
    code = "import sys; from reckoner.console import table; table(['a', 'n'], [['b c', '7 %']]); "
    shown = on_terminal(f"{code} print('rich' in sys.modules)", 40).replace("\r", "")
    assert shown == "\x1b[1ma      n\x1b[0m\nb c  7 %\nFalse\n"


def test_a_table_without_rows_is_its_header():
    out = io.StringIO()
    table(["arm", "accuracy"], [], file=out)
    assert out.getvalue() == "arm  accuracy\n"


def test_widest_columns_give_way_first_and_words_stay_whole():
    columns = [["some words of text"], ["1,319"], ["more words"]]
    assert _fit(columns, 46) == ([0, 1, 2], [18, 5, 10])
    assert _fit(columns, 36) == ([0, 1, 2], [15, 5, 10])
    assert _fit(columns, 23) == ([0, 1, 2], [6, 5, 6])
    assert _fit(columns, 21) == ([0, 1, 2], [5, 5, 5])
    assert _fit(columns, 20) == ([0, 1], [11, 5])
    assert _fit(columns, 2) == ([0, 1], [5, 5])
    named = [["arm", "a"], ["x", "1"], ["y", "2"], ["z", "3"]]
    assert _fit(named, 9, first=("z", "x")) == ([0, 3], [3, 1]) and _fit(named, 12, ("z", "x"))[0] == [
        0,
        1,
        3,
    ]


def on_terminal(code, columns=60):
    """What a process writes to a terminal of that width (stdout and stderr)."""
    keeper, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=terminal, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        written = b""
        try:
            while chunk := os.read(keeper, 4096):
                written += chunk
        except OSError:
            pass
    os.close(keeper)
    assert process.returncode == 0, written
    return written.decode()


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def test_words_never_break_in_a_narrow_terminal():
    headers = ["arm", "accuracy", "verdict", "sha256"]
    row = ["full-main", "57.1 %", "cannot be told apart", "f" * 64]
    rows = [row, *[[""] * 4] * 3]
    shown = plain(on_terminal(f"from reckoner.console import table; table({headers}, {rows})", 40))
    shown = [line for line in shown.splitlines() if line.strip()]
    assert [line.split() for line in shown] == [
        ["arm", "accuracy", "verdict"],
        ["full-main", "57.1", "%", "cannot", "be", "told"],
        ["apart"],
        ["left", "out,", "for", "want", "of", "width:", "sha256."],
        ["--json", "has", "everything"],
    ]
    text = "reinforcement learning of the full-main arm is better than supervised fine-tuning"
    shown = plain(on_terminal(f"from reckoner.console import prose; prose({text!r})", 30))
    assert shown.split() == text.split() and max(map(len, shown.splitlines())) <= 30
    row = ["one-shot + instruction (best prompt)", "0.0 % (25.0 % cut)", "+6.2 (-7.6 to +19.2)"]
    code = f"from reckoner.console import table; table(['arm', 'a', 'b'], [{row}] * 4)"
    shown = [line.rstrip() for line in plain(on_terminal(code, 48)).splitlines()]
    assert [re.split(r"\s{2,}", line) for line in shown[1:4]] == [
        ["one-shot +", "0.0 %", "+6.2"],
        ["instruction", "(25.0 % cut)", "(-7.6 to +19.2)"],
        ["(best prompt)"],
    ]
    long = plain(
        on_terminal(f"from reckoner.console import table; table(['a', 'b'], [['x', {'y' * 90!r}]])", 40)
    )
    assert "y" * 90 in long


def test_a_long_name_wraps_at_its_hyphens_and_takes_no_other_column_away():
    name = "a-study-of-many-rates/full-main/seed-0"
    row = [name, "sft", "finished", "test 37.3 %"]
    code = f"from reckoner.console import table; table(['run', 'kind', 'state', 'score'], [{row}] * 4)"
    shown = [line.rstrip() for line in plain(on_terminal(code, 50)).splitlines()]
    assert shown[:4] == [
        "run                  kind  state     score",
        "a-study-of-many-     sft   finished  test 37.3 %",
        "rates/full-main/",
        "seed-0",
    ]


def test_a_table_of_few_rows_is_turned_where_it_is_too_wide():
    headers, row = ["arm", "accuracy", "verdict", "time"], ["full", "57.1 %", "better", "0:52"]
    code = f"from reckoner.console import table; table({headers}, [{row}, {row}])"
    shown = plain(on_terminal(code, 28)).splitlines()
    assert [line.split() for line in shown] == [
        ["arm", "full", "full"],
        ["accuracy", "57.1", "%", "57.1", "%"],
        ["verdict", "better", "better"],
        ["time", "0:52", "0:52"],
    ]


def test_bars_of_a_series_are_means_of_its_stretches():
    assert sparkline([0, 0, 7, 7], 2) == "▁█" and sparkline([3.0, 3.0]) == "▁▁"
    assert sparkline([]) == "" and sparkline(range(8)) == "▁▂▃▄▅▆▇█"


def test_one_line_counts_the_arms_of_a_study():
    lines = []
    bars = Progress(lambda line: lines.append(line.text(20)), now=lambda: 0)
    of = bars.of_arms("nano", 4)
    of("full")("train", 1, 2)
    of("full")("done", 0, 0)
    assert lines[0] == "nano  0 of 4 arms" and lines[-1] == "nano  1 of 4 arms  ETA 1:00"


def test_a_table_fits_a_narrow_terminal_and_loses_nothing():
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta"]
    shown = plain(
        on_terminal(
            f"from reckoner.console import table; table(['arm', 'verdict'], [[' '.join({words}) * 2, ' "
            f"'.join({words})]])"
        )
    )
    assert max(map(len, shown.splitlines())) <= 60
    assert all(shown.count(word) == 3 for word in words[1:-1])


def test_live_bars_end_as_one_line_an_arm():
    shown = on_terminal(
        "from reckoner.console import progress\n"
        "with progress() as bars:\n"
        "    bars.start('full', 4, 'train'); bars.advance('full', 4, 'loss 1'); "
        "bars.finish('full', '57.1 %')\n"
        "    bars.callback('lora')('evaluate', 3, 6, 'a very long note ' * 9)\n"
    )
    last = [plain(line) for line in shown.splitlines()[-3:]]
    assert "✓ full  done in 0:00  57.1 %" in last[0]
    assert (
        last[1].startswith("━━━━━━━━━━ lora  evaluate  3/6") and len(last[1]) == 60 and last[1].endswith("…")
    )


def test_piped_progress_is_a_plain_line_at_start_and_end():
    out = io.StringIO()
    with progress(out) as lines:
        lines.start("full", 1000, "train")
        for _ in range(999):
            lines.advance("full", 1, "loss\x1b 1")
        lines.finish("full", "57.1 %")
    assert out.getvalue() == "full  train  0/1,000\nfull  done in 0:00  57.1 %\n"


def test_what_is_over_soon_shows_nothing():
    out = io.StringIO()
    with progress(out, after=60) as lines:
        lines.callback("a.jsonl")("grade", 0, 10, "")
        lines.finish("a.jsonl")
    assert out.getvalue() == ""
    code = (
        "from reckoner.console import progress\n"
        "with progress(after=60) as bars:\n"
        "    bars.callback('a.jsonl')('grade', 3, 6, '')\n"
    )
    assert "grade" not in on_terminal(code) and "grade" in on_terminal(code.replace("60", "0"))


def test_piped_progress_speaks_every_ten_seconds():
    out, clock_now = io.StringIO(), [0.0]
    lines = Progress(lambda line: _print_line(line, out, clock_now[0]), now=lambda: clock_now[0])
    lines.start("a", 100)
    for second in range(1, 31):
        clock_now[0] = float(second)
        lines.advance("a", 2)
    assert out.getvalue().splitlines() == [
        "a  0/100",
        "a  20/100  2/s  ETA 0:40",
        "a  40/100  2/s  ETA 0:30",
        "a  60/100  2/s  ETA 0:20",
    ]


def test_rate_counts_only_what_this_process_did_and_phases_restart_it():
    moment = [0.0]
    bars = Progress(lambda line: None, now=lambda: moment[0])
    report = bars.callback("ppo")
    report("train", 500, 600, "")
    moment[0] = 10.0
    report("train", 550, 600, "reward 0.5")
    assert bars.lines["ppo"].text(10.0) == "ppo  train  550/600  5/s  ETA 0:10  reward 0.5"
    report("evaluate", 0, 3000, "")
    moment[0] = 20.0
    report("evaluate", 1500, 3000, "")
    assert bars.lines["ppo"].text(20.0) == "ppo  evaluate  1,500/3,000  150/s  ETA 0:10"
    bars.finish("ppo", "55 %")
    assert bars.lines["ppo"].text(99.0) == "ppo  done in 0:20  55 %"


def test_a_phase_that_counts_nothing_shows_no_count():
    bars = Progress(lambda line: None, now=lambda: 0.0)
    bars.callback("sft")("backend", 0, 0, "packed pass")
    assert bars.lines["sft"].text(0.0) == "sft  backend  packed pass"


def test_phases_inside_training_leave_its_count_and_rate_alone():
    moment = [0.0]
    bars = Progress(lambda line: None, now=lambda: moment[0])
    report = bars.callback("grpo")
    report("train", 0, 40, "64 prompts x 8")
    report("dev", 500, 500, "dev 55.0 %")
    report("generate", 96, 512, "")
    assert bars.lines["grpo"].text(0.0) == "grpo  train  0/40  64 prompts x 8  dev 55.0 %  generate 96/512"
    report("score", 0, 0, "")
    moment[0] = 8.0
    report("train", 2, 40, "reward 0.41")
    report("update", 0, 0, "")
    assert (
        bars.lines["grpo"].text(8.0) == "grpo  train  2/40  0.25/s  ETA 2:32  reward 0.41  dev 55.0 %  update"
    )
    report("dev", 500, 500, "dev 57.2 %")
    assert bars.lines["grpo"].text(8.0).endswith("reward 0.41  dev 57.2 %")
    report("train", 40, 40, "reward 0.60")
    report("test", 1, 10, "")
    assert bars.lines["grpo"].text(8.0) == "grpo  test  1/10"
    report("done", 0, 0, "62.1 % of test")
    assert bars.lines["grpo"].text(99.0) == "grpo  done in 0:08  62.1 % of test"


def test_a_piped_arm_of_many_steps_says_little():
    out, moment = io.StringIO(), [0.0]
    report = Progress(lambda line: _print_line(line, out, moment[0]), now=lambda: moment[0]).callback("grpo")
    for step in range(21):
        report("train", step, 20, f"reward 0.{step:02d}")
        for drawn in range(1, 9):
            moment[0] += 0.125
            report("generate", drawn, 8, "")
    assert out.getvalue().splitlines() == [
        "grpo  train  0/20  reward 0.00",
        "grpo  train  9/20  0.9/s  ETA 0:12  reward 0.09",
        "grpo  train  19/20  0.95/s  ETA 0:01  reward 0.19",
        "grpo  train  20/20  1/s  reward 0.20",
        "grpo  generate  1/8",
        "grpo  generate  8/8  8/s",
    ]


TOKENS = [
    ("<bos>", 2, False),
    ("Question", 31, False),
    (":\n", 9, False),
    (" 2\x1b", 412, True),
    ("[b]", 5, True),
    ("", 7, True),
    ("<eos>", 1, True),
]


def test_supervised_tokens_are_bracketed_in_a_pipe(capsys):
    print_tokens(TOKENS)
    assert capsys.readouterr().out == "<bos>/2 Question/31 :\\n/9\n[·2\\x1b/412] [[b]/5] [/7] [<eos>/1]\n"


def test_supervised_tokens_are_coloured_on_a_terminal():
    shown = on_terminal(f"from reckoner.console import print_tokens; print_tokens({TOKENS!r})")
    assert "\x1b[36mQuestion\x1b[0m\x1b[2m/31 " in shown and "\x1b[1;32m·2\\x1b\x1b[0m\x1b[2m/412 " in shown


def test_clock():
    assert [clock(s) for s in (0.4, 7, 750, 3723)] == ["0:00", "0:07", "12:30", "1:02:03"]


def test_json_is_ascii_and_finite(capsys):
    print_json({"a": "½"})
    assert capsys.readouterr().out == '{\n  "a": "\\u00bd"\n}\n'
    with pytest.raises(ValueError):
        print_json(float("nan"))
