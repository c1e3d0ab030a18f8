"""The README's picture has five rows, whose values are those of the stored study and of its table."""

import re
import xml.etree.ElementTree as xml

import readme_picture


def test_five_rows_with_the_values_of_the_readme():
    drawn = readme_picture.picture()
    names = [row[0] for row in drawn.data[1:]]
    assert names == [
        "GRPO after full SFT",
        "PPO after full SFT",
        "full SFT",
        "LoRA SFT",
        "best of four prompts",
    ]
    assert drawn.title.startswith("4 of 4 trained methods do better than the best prompt (20.8 %) on 1,319")
    table = (readme_picture.ROOT / "README.md").read_text(encoding="utf-8")
    for _, strict, low, high, flexible in drawn.data[1:]:
        shown = flexible if strict < 0.01 else strict
        assert f"| {100 * shown:.1f} % |" in table
        assert strict < 0.01 or f"| {100 * low:.1f}-{100 * high:.1f} |" in table


def test_the_committed_picture_is_what_the_script_draws():
    def texts(svg: str) -> list[str]:
        return [node.text for node in xml.fromstring(svg).iter() if node.tag.endswith("}text") and node.text]

    committed = readme_picture.PICTURE.read_text(encoding="utf-8")
    committed = re.sub(r"^<\?xml.*?\?>\s*", "", committed)
    assert texts(committed) == texts(readme_picture.picture().svg), "run `python scripts/readme_picture.py`"
