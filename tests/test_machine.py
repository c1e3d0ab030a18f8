"""Memory that is measured anew for each piece of work, and versions."""

import gc

from reckoner import machine


def test_peak_memory_can_start_again():
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    high = machine.peak_memory_bytes(reset=True)
    del block
    machine.peak_memory_bytes(reset=True)
    assert high - machine.peak_memory_bytes() > 100_000_000


def test_what_earlier_work_has_freed_does_not_count_as_later_works():
    """Small blocks stay with the allocator, and a cycle with the collector, until they are asked for."""
    before = machine.peak_memory_bytes(reset=True)
    gc.disable()
    rows = [[str(n)] for n in range(1_000_000)]
    rows.append(rows)
    del rows
    assert machine.peak_memory_bytes() - before > 50_000_000
    gc.enable()
    machine.peak_memory_bytes(reset=True)
    assert machine.peak_memory_bytes() - before < 10_000_000


def test_versions_are_of_what_is_installed():
    found = machine.versions(("reckoner", "no-such-package"))
    assert found.keys() == {"reckoner"} and found["reckoner"][0].isdigit()
    assert set(machine.DECISIVE) <= set(machine.PACKAGES)
