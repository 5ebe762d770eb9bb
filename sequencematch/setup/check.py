"""Checks a configuration before any work starts."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from sequencematch.setup.defaults import check_known_key, defaults, flatten, network_config, suggest
from sequencematch.setup.relations import relations
from sequencematch.setup.rules import LARGEST, RULES, TINY, TYPE_NAMES

Relations = Callable[[ConfigDict], Iterable[tuple[bool, str]]]


def check_config(config: ConfigDict, relations: Relations = relations) -> None:
    """Checks every key, the type and range of its value, and the relations between keys.

    Args:
      config: the configuration.
      relations: what must hold between its keys.

    Raises:
      ValueError: one line that names the key, the given value and the allowed ones.
    """
    known, given = flatten(defaults()), flatten(config)
    check_keys(known, given)
    # Types before ranges, and ranges before relations: each check may rely on the ones before it.
    for key, default in known.items():
        if not is_like(default, given[key]):
            allowed = f", {RULES[key].allowed}" if key in RULES else ""
            raise ValueError(f"config.{key}={given[key]!r} must be {type_name(default)}{allowed}")
    for key in RULES:
        check_value(key, given[key])
    network_config(config, vocab_size=1)  # raises if heads do not divide the width
    for holds, message in relations(config):
        if not holds:
            raise ValueError(message)


def check_value(key: str, value: Any) -> None:
    """Raises ValueError for a value that the rule of its key does not allow."""
    rule = RULES[key]
    if not rule.holds(value):
        values = value if isinstance(value, list | tuple) else [value]
        unknown = (each for each in values if each not in rule.names)
        near = next(filter(None, (suggest(each, rule.names) for each in unknown)), "")
        raise ValueError(f"config.{key}={value!r} must be {rule.allowed}{near}")


def check_keys(known: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises ValueError for an unknown key, a missing one, and a value where a section belongs.

    Args:
      known, given: flattened configurations.
    """
    for key in given:
        if any(name.startswith(f"{key}.") for name in known):
            raise ValueError(f"config.{key}={given[key]!r} must be a section, as in defaults()")
        check_known_key(key, known)
    for key in known:
        if key not in given:
            raise ValueError(f"config.{key} is missing: start a configuration from defaults()")


def type_name(default: Any) -> str:
    """What a value of the default's type is called in messages."""
    if isinstance(default, tuple):
        return f"a tuple whose every element is {type_name(default[0])}"
    return TYPE_NAMES[type(default)]


def is_like(default: Any, value: Any) -> bool:
    """Whether a value has the type of its default, and a number fits into float32.

    Exact types only, so that True is not an integer and every value can be written to config.json. An
    integer may stand for a float, and a list, which is what JSON makes of a tuple, for a tuple.
    """
    if isinstance(default, tuple):
        return type(value) in (tuple, list) and all(is_like(default[0], x) for x in value)
    if isinstance(default, float):
        # The devices compute in float32: numbers that it rounds to 0 or infinity are refused.
        largest = LARGEST.get(type(value))
        return largest is not None and (value == 0 or TINY <= abs(value) <= largest)
    return type(value) is type(default)
