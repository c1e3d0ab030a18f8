"""docs/settings.md holds every verb with its options and every setting, as the code has them."""

import settings_page
import typer

from reckoner.cli import app
from reckoner.config.layers import SECTIONS
from reckoner.config.schema import ArmConfig, Config

PAGE = settings_page.PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_the_code_gives():
    assert settings_page.page() == PAGE, "run `python scripts/settings_page.py` and commit docs/settings.md"


def test_every_setting_has_a_row_with_its_default():
    config = Config().to_dict()
    assert set(config) - {"preset"} == set(SECTIONS)
    for section, values in config.items():
        for name, value in values.items() if section != "preset" else ():
            (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{section}.{name}` |")]
            shown = {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value
            assert not isinstance(value, str | int | float) or str(shown).replace("\n", "\\n") in row
    assert all(f"| `study.arms.NAME.{name}` |" in PAGE for name in ArmConfig.__dataclass_fields__)


def test_every_verb_has_a_heading_with_its_options_below_it():
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert not command.hidden or name == "errors"
        for verb, inner in getattr(command, "commands", {"": command}).items() if not command.hidden else ():
            _, _, rest = PAGE.partition(f"### `reckon {name} {verb}".rstrip() + "`\n")
            part = rest.partition("\n### ")[0]
            assert part and all(
                option in part for one in inner.params for option in one.opts if "-" in option
            )
