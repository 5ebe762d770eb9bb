"""Marks of single cases."""

import pytest


def stress(*values):
    """A case of a parametrised test that `make test` leaves out and `make stress` does not."""
    return pytest.param(*values, marks=pytest.mark.stress)
