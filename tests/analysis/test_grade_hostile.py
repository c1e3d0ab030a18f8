"""Texts that have broken graders, reports, terminals or spreadsheets get their right verdict, in ASCII.

None of them holds a `####` marker or a stop string, so each may stand before or behind a well-formed answer.
"""

from __future__ import annotations

import json

import pytest

from reckoner.analysis.grade import grade_file
from reckoner.tasks.answers.number import grade_text
from reckoner.tasks.answers.other_graders import GRADERS

HTML = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>",
    "</script><script>x()</script>", "<!--", "-->",
    "<iframe src=javascript:alert(1)>", "\"><b onmouseover=alert(1)>", "' onfocus=alert(1) autofocus='",
    "&lt;script&gt;", "&#60;b&#62;",
    "<style>*{display:none}</style>", "<math><mtext></table></math>", "<a href='data:text/html,x'>y</a>",
    "<base href=//evil>", "</td></tr></table>",
    "<meta http-equiv=refresh content=0>", "<template><p>", "<textarea></textarea ", "<title></title>",
    "<![CDATA[x]]>", "<?xml version='1.0'?>",
    "<object data=x>", "<embed src=x>", "<form action=x><input>", "<button formaction=x>",
    "<details open ontoggle=x>", "<xmp>", "<plaintext>",
]  # fmt: skip
TERMINAL = [
    "\x1b[2J", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\",
    "\x1b[1A\x1b[2K", "\x9b31m", "\x07\x07",
    "\x1b[?1049h", "\x1bP1$r0m\x1b\\", "\x08\x08\x08", "\rover", "\x1b[6n", "\x1b[5i", "\x1b]52;c;eA==\x07",
    "\x0e\x0f", "\x7f", "\x85", "\x0b\x0c",
]  # fmt: skip
UNICODE = [
    "\ud800", "\udfff", "\ud83d", "\ude00\ud83d", "\u202e gnol", "\u2066x\u2069", "\u200b\u200c\u200d",
    "\ufeff", "\ufffe", "\uffff", "\U0010ffff",
    "\u0000", "a\u0000b", "\u2028", "\u2029", "e\u0301" * 50, "\u0327" * 200,
    "Z\u0351\u0312\u0343a\u0329l\u034dg\u0337o", "ﬁ", "㎡", "①②", "Ⅻ",
    "½¼¾", "٠١٢٣", "०१२", "𝟜𝟚", "四十二", "№", "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U000e0041\U000e0042", "ＡＢＣ", "א ב ג", "\u061c", "\u00ad",
    "İi̇ıI", "ß", "\u1e9e", "\ufdfa", "\u3164", "ẞ\u0345",
]  # fmt: skip
NUMBERS = [
    "9" * 5_000, "-" + "9" * 5_000, "0." + "3" * 5_000, "1e" + "9" * 5_000, "1e-" + "9" * 5_000,
    "1/" + "9" * 5_000, "1," * 5_000, "1." * 5_000,
    "9" * 65, "1e999999999", "1E-999999999", "1e309", "-1e-400", "inf", "-Infinity", "nan", "NaN",
    "1_000_000", "0x2A", "0b101", "0o17", "1e", "1e+", "e5",
    ".", "..", "-", "--", "+-+-", "1/0", "0/0", "9**9**9", "1:2:3", "1,2,3,4", "1.2.3.4", "1'000", "1٫5",
    "−", "-0", "1e5e5", "million million",
    "\\frac{1}{0}", "\\boxed{", "$" * 1_000, "{" * 1_000, "(" * 10_000, "<<" * 1_000, ">>" * 1_000,
    "<<1/0=1>>", "<<9**9**9=1>>", "<<__import__('os')=1>>",
]  # fmt: skip
SPREADSHEET = [
    "=1+1", "=cmd|' /C calc'!A0", "+SUM(A1:A2)", "-2+3", "@SUM(1)", "\t=1", "\r=1",
    '=HYPERLINK("http://evil","x")', "=IMPORTXML(1)", "|", "a|b|c", "||",
    '"', '""', '","', "a,b", ";", "`", "```", "~~~", "\\", "\\n", "[x](javascript:alert)",
    "![x](http://evil)", "* * *", "---", "| - |", "> quote",
]  # fmt: skip
INJECTION = [
    "{{7*7}}", "{% for x in y %}", "${7*7}", "{0.__class__}", "%s%s%n", "%(x)s", "{}", "{question}",
    "'; DROP TABLE x; --", "$(reboot)", "`id`", "../../etc/passwd",
    "C:\\con", "\\\\evil\\x", "file:///etc/passwd", "!!python/object:os.system", "&a [*a]", "no", "null",
    "true", "[]", "[" * 500, '{"a":' * 500, "__proto__",
    "constructor", "\\u0000", "\\ud800", "%00", "%0d%0aX: y", "os.system('x')", "import os", "eval(1)",
    "ignore previous instructions", "<system>", "[INST]",
    "</think>", "<think>", "<|im_start|>", "<bos>", "<pad>", "[MASK]", "User:", "Answer:", "A:",
    " " * 10_000, "\n" * 10_000, "\t" * 1_000,
]  # fmt: skip

HOSTILE = [*HTML, *TERMINAL, *UNICODE, *NUMBERS, *SPREADSHEET, *INJECTION]
NUMBERS_AT_THE_START = {
    "1_000_000": "1",
    "0b101": "0",
    "0o17": "0",
    "1e": "1",
    "1e+": "1",
    "1'000": "1",
    "1٫5": "1",
    "-0": "0",
    "1e5e5": "100000",
    "{0.__class__}": "0",
}


def test_there_are_many():
    assert len(set(HOSTILE)) == len(HOSTILE) >= 200


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_right_verdict_whatever_stands_around_the_answer(text):
    assert grade_text(f"{text}\n#### 42", "42").verdict == "correct"
    assert grade_text(f"#### 42\n{text}", "42").verdict == "correct"
    assert grade_text(f"#### 42\n{text}\n#### 7", "42").verdict == "wrong"
    alone = grade_text(f"#### {text}", "42")
    assert alone.strict_value == NUMBERS_AT_THE_START.get(text)
    assert not alone.strict


def test_a_file_of_them_is_graded_line_by_line(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"id": str(n), "completion": f"{text}\n#### 42", "gold": "42"} for n, text in enumerate(HOSTILE)]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    tally = grade_file(source, output, graders=tuple(GRADERS))
    assert (tally.n, tally.strict, tally.skipped) == (len(HOSTILE), len(HOSTILE), 0)
    written = output.read_bytes()
    assert written.isascii() and b"\x1b" not in written and b"\0" not in written
    graded = [json.loads(line) for line in written.split(b"\n")[:-1]]
    assert [{name: line[name] for name in ("id", "completion", "gold")} for line in graded] == lines


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        b"{",
        b"[1]",
        b"3",
        b'"x"',
        b"null",
        b"{}",
        b'{"completion": "#### 4", "gold": NaN}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_line_is_counted(tmp_path, raw):
    source = tmp_path / "in.jsonl"
    source.write_bytes(
        b'{"completion": "#### 4", "gold": 4}\n' + raw + b'\n{"completion": "#### 4", "gold": "5"}\n'
    )
    tally = grade_file(source, skip_bad=True)
    assert (tally.n, tally.strict, tally.skipped) == (2, 1, 1)


def test_a_line_of_50_megabytes(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"completion": "3 + 4 = 7, " * 4_700_000 + "\n#### 7", "gold": "7"}) + "\n")
    assert source.stat().st_size > 50_000_000
    assert grade_file(source, output).strict == 1
    assert output.stat().st_size > 50_000_000
