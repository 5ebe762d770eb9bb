"""Configurations for the tests of this folder."""

import pytest

from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults


def config_with(changes):
    """The defaults with some keys changed; the result may be invalid."""
    config = defaults()
    config.update_from_flattened_dict(changes)
    return config


def valid_config_with(changes):
    """The defaults with some keys changed, and validated."""
    config = config_with(changes)
    check_config(config)
    return config


def error_of(config):
    """The one line in which `check_config` refuses a configuration."""
    with pytest.raises(ValueError) as raised:
        check_config(config)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)
