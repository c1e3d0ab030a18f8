"""Which completions the gate looks at. That it stops what it should: tests/algorithms/test_sampler.py."""

from reckoner.training.gate import gap_rows


def test_the_sampler_is_measured_on_all_of_step_1_and_then_on_an_eighth():
    counted = {count: len(gap_rows(count, 2)) for count in (1, 8, 32, 128, 512, 2048, 5000)}
    assert counted == {1: 1, 8: 8, 32: 16, 128: 16, 512: 64, 2048: 64, 5000: 65}
    assert gap_rows(512, 1) == range(512)
