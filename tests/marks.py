"""Marks of single cases."""

import pytest


def stress(*values):
    """A case of a parametrised test that `make test` leaves out and `make stress` does not."""
    return pytest.param(*values, marks=pytest.mark.stress)


def exhaustive(*values):
    """One that .ci/run leaves out, too: it takes long, and other cases are near it."""
    return pytest.param(*values, marks=[pytest.mark.stress, pytest.mark.exhaustive])
