"""A thread that waits soon sleeps: the environment says so before torch loads its OpenMP library."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("given, expected", [(None, "30000"), ("7", "7")])
def test_openmp_is_told_before_torch_loads_it(given, expected):
    """The library shows what it has read; what the user says comes first."""
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {"OMP_DISPLAY_ENV": "verbose"} | ({"GOMP_SPINCOUNT": given} if given else {})
    shown = subprocess.run(
        [sys.executable, "-c", "import reckoner.__main__, torch"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this build of torch has no OpenMP that shows its settings")
    assert f"GOMP_SPINCOUNT = '{expected}'" in shown
