"""The mutation runner changes what it says, and its tests notice a change that matters."""

import ast

from benchmarks import mutants

SOURCE = "def share(n: int, of: int = 1) -> float:\n    return n / of if n > 0 and not n == of else 1\n"


def test_every_change_is_one_change():
    found = [(was, instead) for _, was, instead, _ in mutants.mutants(SOURCE)]
    assert sorted(found) == sorted(
        [
            ("1", "2"),
            ("n / of", "n * of"),
            ("n > 0 and (not n == of)", "n > 0 or not n == of"),
            ("n > 0", "n >= 0"),
            ("0", "1"),
            ("not n == of", "n == of"),
            ("n == of", "n != of"),
            ("1", "2"),
        ]
    )
    changed = [source for *_, source in mutants.mutants(SOURCE)]
    assert len(set(changed)) == len(changed) and ast.unparse(ast.parse(SOURCE)) not in changed


def test_every_module_and_test_exists():
    for module, tests in mutants.TESTS.items():
        assert (mutants.ROOT / "src" / "reckoner" / module).is_file()
        assert all((mutants.ROOT / test).is_file() for test in tests)
