"""A GPU that had to slow down, by a library of the driver's form."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from runner.system.gpu_health import SECONDS, in_words, watch

HEAT, POWER, IDLE = 0x40, 0x4, 0x1
_KINDS = {"reasons": ctypes.c_ulonglong, "clock": ctypes.c_uint, "heat": ctypes.c_uint}


def answering(values: Iterator[int] | None, kind: str) -> Any:
    """A function of the library; `values` None: it is not supported."""

    def function(*arguments: Any) -> int:
        if values is None:
            return 3
        ctypes.cast(arguments[-1], ctypes.POINTER(_KINDS[kind]))[0] = next(values)
        return 0

    return function


def driver(
    reasons: list[int], clocks: list[int] | None, heat: list[int] | None, *, old: bool = False
) -> Any:
    name = "Throttle" if old else "Event"
    asked = {
        f"nvmlDeviceGetCurrentClocks{name}Reasons": answering(iter(reasons), "reasons"),
        "nvmlDeviceGetClockInfo": answering(None if clocks is None else iter(clocks), "clock"),
        "nvmlDeviceGetTemperature": answering(None if heat is None else iter(heat), "heat"),
    }
    return SimpleNamespace(
        nvmlInit_v2=lambda: 0, nvmlDeviceGetHandleByIndex_v2=lambda index, device: 0, **asked
    )


def looked(library: Any, times: list[float]) -> dict[str, Any]:
    clock = iter(times)
    found = watch(lambda: next(clock), lambda name: library)
    assert found is not None
    for _ in times:
        found.look()
    return found.measures()


@pytest.mark.parametrize("old", [False, True], ids=["new driver", "old driver"])
def test_what_part_of_the_time_it_was_slower_and_why(old: bool) -> None:
    library = driver(
        [0, HEAT, HEAT | POWER, IDLE], [2000, 900, 1000, 2000], [60, 85, 84, 70], old=old
    )
    # looks in between are too early and ask nothing
    found = looked(library, [0.0, 0.1, SECONDS, SECONDS + 1.9, 2 * SECONDS, 3 * SECONDS])
    assert found["gpu_health"] == {
        "slowed": {"heat": 0.5, "power": 0.25},
        "megahertz_lowest": 900,
        "megahertz_median": 1500,
        "celsius_highest": 85,
    }
    assert in_words(found["gpu_health"]) == (
        "GPU slowed down   50% of the time for heat, 25% of the time for power; 900 MHz at the "
        "lowest, 85 °C at the highest"
    )


def test_nothing_is_said_of_a_gpu_that_was_as_fast_as_it_can_be() -> None:
    found = looked(driver([0, IDLE], None, None), [0.0, SECONDS])
    assert found == {"gpu_health": {"slowed": {}}}
    assert in_words(found["gpu_health"]) is None
    assert in_words(None) is None


def test_a_driver_that_does_not_answer_measures_nothing() -> None:
    library = driver([], None, None)
    del library.nvmlDeviceGetCurrentClocksEventReasons
    assert looked(library, [0.0]) == {}


def test_without_a_driver_nobody_looks() -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    assert watch(lambda: 0.0, missing) is None
