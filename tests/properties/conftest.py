"""Counts the inputs tried on each target; every module here, `test_<target>.py`, is one.

python -m pytest tests/properties -m "stress or not stress" --hypothesis-profile=fuzz [-n 2]
"""

import collections
import functools
import itertools
import pathlib
import random

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # A known seed, set before hypothesis reads it, so that a fuzz run can be repeated.
    if config.getoption("hypothesis_profile") == "fuzz" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Counts the inputs of a property; the test's report carries the number to the controller."""
    if not hasattr(pyfuncitem.obj, "hypothesis"):
        return (yield)
    handle, inputs = pyfuncitem.obj.hypothesis, itertools.count()
    test = handle.inner_test

    @functools.wraps(test)
    def count_and_test(*args, **kwargs):
        next(inputs)
        return test(*args, **kwargs)

    handle.inner_test = count_and_test
    try:
        return (yield)
    finally:
        handle.inner_test = test
        pyfuncitem.user_properties.append(("inputs", next(inputs)))


def pytest_terminal_summary(terminalreporter, config):
    """Prints the number of inputs by target, and the seed that repeats them."""
    inputs = collections.Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            target = pathlib.Path(report.fspath).stem.removeprefix("test_")
            inputs[target] += dict(report.user_properties).get("inputs", 0)
    inputs = +inputs  # drops the zeros: tests that are not properties
    if not inputs:
        return
    terminalreporter.section("inputs tried")
    for target, count in inputs.most_common():
        terminalreporter.write_line(f"{count:7,} {target}")
    terminalreporter.write_line(f"{inputs.total():7,} in all")
    if config.option.hypothesis_seed is not None:
        terminalreporter.write_line(f"again: --hypothesis-seed={config.option.hypothesis_seed}")
