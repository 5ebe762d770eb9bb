"""The methods, as values: what data each one learns from, and whether it matches occupancies."""

from typing import NamedTuple


class Method(NamedTuple):
    """What sets a method apart; everything else is equal.

    Attributes:
      edits: whether `<bkspc>` is an action, and the data is noised so that it is shown.
      matches: whether J is optimised after the phase of behavioural cloning.
    """

    edits: bool
    matches: bool


METHODS = {
    "mle": Method(edits=False, matches=False),
    "bc": Method(edits=True, matches=False),
    "sequencematch": Method(edits=True, matches=True),
}
