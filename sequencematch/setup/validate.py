"""What a configuration must satisfy before any work starts."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sequencematch.setup.defaults import check_known_key, defaults, flat, network_config, suggest
from sequencematch.setup.rules import KINDS, LARGEST, RULES, TINY, relations


def validate(config: ConfigDict) -> None:
    """Checks every key, and what keys must be to each other.

    Raises:
      ValueError: one line that names the key, what was given and what is allowed.
    """
    known, given = flat(defaults()), flat(config)
    check_keys(known, given)
    for key, default in known.items():
        if not is_like(default, given[key]):
            within = f", {RULES[key][0]}" if key in RULES else ""
            raise ValueError(f"config.{key}={given[key]!r} must be {kind(default)}{within}")
    for key, (allowed, holds) in RULES.items():
        if not holds(given[key]):
            near = _nearest(given[key], allowed.split(" of ")[-1].split(", "))
            raise ValueError(f"config.{key}={given[key]!r} must be {allowed}{near}")
    for holds, message in relations(config):
        if not holds:
            raise ValueError(message)
    network_config(config, vocab_size=1)


def check_keys(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises ValueError for keys that are too many or missing, and for sections that are none."""
    for key in given:
        if any(name.startswith(f"{key}.") for name in known):
            raise ValueError(f"config.{key}={given[key]!r} must be a section, as in defaults()")
        check_known_key(key, known)
    for key in known:
        if key not in given:
            raise ValueError(f"config.{key} is missing: start a configuration from defaults()")


def kind(default: Any) -> str:
    """What a value of this default's kind is called."""
    if isinstance(default, tuple):
        return f"a tuple whose every element is {kind(default[0])}"
    return KINDS[type(default)]


def is_like(default: Any, value: Any) -> bool:
    """Whether a value is of its default's kind, which JSON can hold, and numbers float32.

    An integer that jax can take may stand for a float, and a list for a tuple; True is no integer.
    """
    if isinstance(default, tuple):
        return type(value) in (tuple, list) and all(is_like(default[0], x) for x in value)
    if isinstance(default, float):
        largest = LARGEST.get(type(value))
        return largest is not None and (value == 0 or TINY <= abs(value) <= largest)
    return type(value) is type(default)


def _nearest(value: Any, names: list[str]) -> str:
    """What the first name that is none of `names` was probably meant to be, or nothing."""
    given = value if isinstance(value, list | tuple) else [value]
    return next((suggest(name, names) for name in given if name not in names), "")
