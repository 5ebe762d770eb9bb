"""Growth is found, its absence is shown, and noise counts as neither."""

import numpy as np
import pytest

from tests.dependability import growth

MINUTES = np.arange(0, 60, 1 / 60)


def find_problem(name, values, minutes=MINUTES):
    """The problem that the table reports for a quantity with these values."""
    samples = [{"minutes": m, name: v} for m, v in zip(minutes, values, strict=True)]
    return growth.row(name, samples)[1]


def noisy_level(size, hourly=0.0, level=500.0):
    """A level that rises by `hourly` an hour, and moves up and down by `size` from window to window."""
    return level + hourly * MINUTES / 60 + size * (-1.0) ** (MINUTES // growth.WINDOW)


def spiky_level(hourly=0.0):
    """A level with spikes above it most of the time, as from memory that a step takes for a moment."""
    spikes = np.random.default_rng(1).exponential(50.0, len(MINUTES))
    return 500.0 + hourly * MINUTES / 60 + spikes * (np.arange(len(MINUTES)) % 60 > 2)


@pytest.mark.parametrize("name", ["memory", "allocated", "blocks"])
def test_growth_is_found_and_its_absence_is_shown(name):
    assert (
        find_problem(name, noisy_level(0.5))
        == find_problem(name, np.full(len(MINUTES), 500.0))
        == ""
    )
    assert find_problem(name, noisy_level(0.5, hourly=5.0)) == ""  # 1 % of 500
    assert find_problem(name, noisy_level(0.5, hourly=20.0)) == "GROWS"
    assert (
        find_problem(name, spiky_level()) == "" and find_problem(name, spiky_level(30.0)) == "GROWS"
    )


def test_slightly_more_than_the_limit_fails_however_noisy_the_memory():
    """2.4 % an hour fails, whether or not it is significantly more than 2 %."""
    assert find_problem("memory", noisy_level(0.5, hourly=12.0)) == "GROWS"
    assert find_problem("memory", noisy_level(3.0, hourly=12.0)) != ""


@pytest.mark.parametrize("name", ["memory", "allocated", "blocks"])
def test_noise_shows_neither_growth_nor_its_absence(name):
    assert find_problem(name, noisy_level(10.0)) == "NOT SHOWN"


def test_memory_that_a_save_takes_for_minutes_is_not_growth():
    """A save every four minutes, during which memory is above its level for two."""
    assert find_problem("allocated", 500.0 + 50.0 * (MINUTES % 4 < 2)) == ""


@pytest.mark.parametrize("name", ["memory", "blocks"])
def test_short_dips_hide_no_growth(name):
    """After some saves, memory is below its level for some seconds."""
    low = 30.0 * np.random.default_rng(2).random(len(MINUTES)) * (MINUTES % 4 < 0.2)
    assert find_problem(name, 500.0 - low) == ""
    assert find_problem(name, noisy_level(0.5, hourly=12.0) - low) == "GROWS"


def test_missing_samples_are_reported_as_not_measured():
    samples = [{"minutes": m} | ({} if m > 40 else {"allocated": 5.0}) for m in MINUTES]
    assert growth.row("allocated", samples)[1] == "NOT MEASURED"


def step_up(more, minute):
    """A count of ten, which rises by `more` after a minute."""
    return np.where(minute < MINUTES, 10 + more, 10)


@pytest.mark.parametrize("name", ["handles", "threads", "compilations"])
def test_counts_that_keep_rising_grow(name):
    assert find_problem(name, np.full(len(MINUTES), 10)) == find_problem(name, step_up(5, 9)) == ""
    assert find_problem(name, 10 + MINUTES // 5) == "GROWS"


@pytest.mark.parametrize("minute", [17, 35, 45, 57.5])
def test_one_late_compilation_is_growth(minute):
    assert find_problem("compilations", step_up(1, minute)) == "GROWS"


def test_the_warm_up_and_an_unfinished_window_do_not_count():
    """The first ten minutes, in which pools fill, and a last window of one sample."""
    minutes = np.append(MINUTES, 60.001)
    values = np.append(np.minimum(500, 300 + 20 * MINUTES), 900.0)
    assert find_problem("allocated", values, minutes) == ""


def test_a_missing_first_sample_and_a_missing_minute_do_no_harm():
    samples = [
        {"minutes": 0.0},
        *({"minutes": m, "allocated": 5.0} for m in MINUTES if m // 1 != 40),
    ]
    assert growth.row("allocated", samples)[1] == ""
