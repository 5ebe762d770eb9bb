"""The judge of the long run: growth is found, its absence shown, and noise passes for neither."""

import numpy as np
import pytest

from tests.dependability import growth

MINUTES = np.arange(0, 60, 1 / 60)


def verdict(name, values, minutes=MINUTES):
    samples = [{"minutes": m, name: v} for m, v in zip(minutes, values, strict=True)]
    return growth.row(name, samples)[1]


def noisy(size, hourly=0.0, level=500.0):
    """A level that rises so much an hour, and whose least value in a window goes up and down."""
    return level + hourly * MINUTES / 60 + size * (-1.0) ** (MINUTES // growth.WINDOW)


def spiky(hourly=0.0):
    """What a step takes for a moment stands above the level most of the time."""
    spikes = np.random.default_rng(1).exponential(50.0, len(MINUTES))
    return 500.0 + hourly * MINUTES / 60 + spikes * (np.arange(len(MINUTES)) % 60 > 2)


@pytest.mark.parametrize("name", ["memory", "allocated", "blocks"])
def test_growth_is_found_and_its_absence_is_shown(name):
    assert verdict(name, noisy(0.5)) == verdict(name, np.full(len(MINUTES), 500.0)) == ""
    assert verdict(name, noisy(0.5, hourly=5.0)) == ""  # 1 % of 500
    assert verdict(name, noisy(0.5, hourly=20.0)) == "GROWS"
    assert verdict(name, spiky()) == "" and verdict(name, spiky(30.0)) == "GROWS"


def test_a_little_more_than_the_limit_grows_however_much_memory_moves():
    """2.4 % an hour, whether or not that is sure to be more than 2 %."""
    assert verdict("memory", noisy(0.5, hourly=12.0)) == "GROWS"
    assert verdict("memory", noisy(3.0, hourly=12.0)) != ""


@pytest.mark.parametrize("name", ["memory", "allocated", "blocks"])
def test_noise_shows_nothing(name):
    assert verdict(name, noisy(10.0)) == "NOT SHOWN"


def test_what_takes_longer_than_a_minute_is_no_growth():
    """A save every four minutes, under which memory stands above its level for two."""
    assert verdict("allocated", 500.0 + 50.0 * (MINUTES % 4 < 2)) == ""


@pytest.mark.parametrize("name", ["memory", "blocks"])
def test_what_is_given_back_for_a_moment_is_no_shrinking_and_hides_no_growth(name):
    """After a save, now and then, memory lies below its level for some seconds."""
    low = 30.0 * np.random.default_rng(2).random(len(MINUTES)) * (MINUTES % 4 < 0.2)
    assert verdict(name, 500.0 - low) == ""
    assert verdict(name, noisy(0.5, hourly=12.0) - low) == "GROWS"


def test_what_was_not_measured_is_not_shown():
    samples = [{"minutes": m} | ({} if m > 40 else {"allocated": 5.0}) for m in MINUTES]
    assert growth.row("allocated", samples)[1] == "NOT MEASURED"


def late(more, minute):
    """A count of ten, and more from a minute on."""
    return np.where(minute < MINUTES, 10 + more, 10)


@pytest.mark.parametrize("name", ["handles", "threads", "compilations"])
def test_counts(name):
    assert verdict(name, np.full(len(MINUTES), 10)) == verdict(name, late(5, 9)) == ""
    assert verdict(name, 10 + MINUTES // 5) == "GROWS"


@pytest.mark.parametrize("minute", [17, 35, 45, 57.5])
def test_one_compilation_more_is_too_many(minute):
    assert verdict("compilations", late(1, minute)) == "GROWS"


def test_what_only_began_does_not_count():
    """Not the first ten minutes, in which pools fill, nor a last minute of one sample."""
    minutes = np.append(MINUTES, 60.001)
    values = np.append(np.minimum(500, 300 + 20 * MINUTES), 900.0)
    assert verdict("allocated", values, minutes) == ""


def test_what_was_not_told_at_first_and_minutes_without_a_sample_do_no_harm():
    samples = [
        {"minutes": 0.0},
        *({"minutes": m, "allocated": 5.0} for m in MINUTES if m // 1 != 40),
    ]
    assert growth.row("allocated", samples)[1] == ""
