"""How many inputs were tried, and on what: each module here is a target, `test_<target>.py`.

python -m pytest tests/properties --hypothesis-profile=fuzz [-n 2]
"""

import collections
import functools
import itertools
import pathlib
import random

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # Before hypothesis reads it, so that a fuzz run can be repeated.
    if config.getoption("hypothesis_profile") == "fuzz" and config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(random.randrange(2**32))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    """Counts the inputs of a property; a report carries the number from worker to controller."""
    if not hasattr(pyfuncitem.obj, "hypothesis"):
        return (yield)
    handle, inputs = pyfuncitem.obj.hypothesis, itertools.count()
    test = handle.inner_test

    @functools.wraps(test)
    def counted(*args, **kwargs):
        next(inputs)
        return test(*args, **kwargs)

    handle.inner_test = counted
    try:
        return (yield)
    finally:
        handle.inner_test = test
        pyfuncitem.user_properties.append(("inputs", next(inputs)))


def pytest_terminal_summary(terminalreporter, config):
    """Inputs by target, and how to try the same ones again."""
    inputs = collections.Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            target = pathlib.Path(report.fspath).stem.removeprefix("test_")
            inputs[target] += dict(report.user_properties).get("inputs", 0)
    inputs = +inputs  # those of properties
    if not inputs:
        return
    terminalreporter.section("inputs tried")
    for target, count in inputs.most_common():
        terminalreporter.write_line(f"{count:7,} {target}")
    terminalreporter.write_line(f"{inputs.total():7,} in all")
    if config.option.hypothesis_seed is not None:
        terminalreporter.write_line(f"again: --hypothesis-seed={config.option.hypothesis_seed}")
