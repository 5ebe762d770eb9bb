"""Ways to answer by name: `greedy`, `sampled`, `unedited`, or such as `top_p=0.95,temperature=0.7`."""

import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches

import numpy as np

from sequencematch.rollout.decoding import Decoding
from sequencematch.rollout.truncation import TRUNCATIONS

NAMED = ("greedy", "sampled", "unedited")

TINY = float(np.finfo(np.float32).tiny)  # what is smaller may be 0 where it is used

# What a name is made of -> what its value may be, in words, and whether it is.
VALUES: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("> 0, as a float32", lambda x: TINY <= x < math.inf),
    "top_k": ("a whole number >= 1", lambda x: x >= 1 and x % 1 == 0),
    "top_p": ("in (0, 1], as a float32", lambda x: TINY <= x <= 1),
    "min_p": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "typical": ("in (0, 1), as a float32", lambda x: TINY <= x < 1),
    "repetition": ("in [0.01, 100]", lambda x: 0.01 <= x <= 100),
    "contrastive": ("in [0, 1]", lambda x: 0 <= x <= 1),
    "best_of": ("a whole number in [1, 1000]", lambda x: 1 <= x <= 1000 and x % 1 == 0),
}


def parse_decoding(
    name: str, *, threshold: float, bias: float, temperature: float, memory: bool
) -> Decoding:
    """The way to answer that a name stands for.

    Args:
      name: one of `NAMED`, or keys of `VALUES` with their values, such as "top_k=4,contrastive=0.6".
        Answers are drawn, unless the keys are `repetition` alone, or `contrastive` is among them, which
        compares the `top_k` likeliest tokens.
      threshold, bias, temperature, memory: as in `Decoding`, the threshold of greedy answers and the
        temperature of drawn ones.

    Raises:
      ValueError: there is no such way; says what there is.
    """
    drawn = Decoding(None, bias, temperature, memory)
    greedy = Decoding(threshold, bias, memory=memory)
    named = {"greedy": greedy, "sampled": drawn, "unedited": Decoding(bias=-math.inf)}
    if name in named:
        return named[name]
    values = _parse_values(name)
    if "contrastive" in values:
        if values.keys() - {"contrastive", "top_k", "repetition"} or "top_k" not in values:
            raise ValueError(
                f"decoding {name!r}: contrastive compares the likeliest tokens, so it needs top_k and "
                "goes with nothing else but repetition, as in 'top_k=4,contrastive=0.6'"
            )
        found = greedy._replace(contrastive=(int(values["top_k"]), values["contrastive"]))
    elif values.keys() == {"repetition"}:
        found = greedy
    else:
        truncate = tuple((key, values[key]) for key in TRUNCATIONS if key in values)
        found = drawn._replace(
            temperature=values.get("temperature", temperature), truncate=truncate
        )
    return found._replace(
        repetition=values.get("repetition", 1.0), best_of=int(values.get("best_of", 1))
    )


def decoding_fault(name: str) -> str:
    """What is wrong with a name; "" if nothing is."""
    try:
        parse_decoding(name, threshold=0.5, bias=0.0, temperature=1.0, memory=False)
    except ValueError as error:
        return str(error)
    return ""


def _parse_values(name: str) -> dict[str, float]:
    """The value of each key in a name."""
    values: dict[str, float] = {}
    for part in name.split(","):
        key, _, text = part.strip().partition("=")
        if key not in VALUES:
            near = next(iter(get_close_matches(key, [*NAMED, *VALUES], n=1)), "")
            raise ValueError(
                f"decoding {name!r}: {key!r} is none of {', '.join(NAMED)}, or "
                f"{', '.join(f'{key}=X' for key in VALUES)}, several of these joined by commas"
                + (f"; did you mean {near!r}?" if near else "")
            )
        if key in values:
            raise ValueError(f"decoding {name!r}: {key} is there twice")
        allowed, holds = VALUES[key]
        try:
            values[key] = float(text)
        except ValueError:
            values[key] = math.nan
        if not holds(values[key]):
            raise ValueError(f"decoding {name!r}: {key}={text} must be {allowed}")
    return values
