"""The Markov decision process of text with edit actions (SequenceMatch, arXiv 2306.05426).

A state is a stack of tokens above a fixed prompt. An ordinary token is pushed, `<eos>` leads to an
absorbing state, and an edit pops tokens: `<bkspc>` pops one, RESET pops all (Zhang et al., arXiv
2409.14586). The prompt is never popped: where only it is left, an edit just takes a step of time.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

# How many tokens RESET pops: more than any text holds, so only the prompt is left.
EVERYTHING = 2**30


class Mdp(NamedTuple):
    """The static facts of the decision process over a vocabulary of V ids.

    Attributes:
      legal: bool[V], the action set; logsumexp, loss and sampler all use this one mask.
      ordinary: bool[V], the tokens that a text is made of: legal, neither `<eos>` nor an edit.
      pops: int32[V], how many tokens an action pops; 0 for an action that is pushed itself.
      eos: id of the action that ends the text.
      pad: id that fills unused slots; no action, unless it is `<eos>` as well.
    """

    legal: Bool[np.ndarray, " V"]
    ordinary: Bool[np.ndarray, " V"]
    pops: Int[np.ndarray, " V"]
    eos: int
    pad: int


def make(
    vocab_size: int, *, eos: int, pad: int, never: Iterable[int], edits: Mapping[int, int]
) -> Mdp:
    """Builds the decision process.

    Args:
      vocab_size: V, number of ids.
      eos: id of `<eos>`.
      pad: id of `<pad>`; no action, unless it is eos as well (GPT-2).
      never: other ids that are not actions (`<bos>`, ids that only pad the vocabulary, and edits of
        methods that have none).
      edits: id of each edit -> number of tokens it pops, as in `{bkspc: 1}`; may be empty.

    Raises:
      ValueError: an id is not in the vocabulary, or two of these contradict each other; names both.
    """
    never = list(never)
    _check_ids(vocab_size, eos, pad, never, edits)
    legal = np.ones(vocab_size, bool)
    legal[[pad, *never]] = False
    legal[eos] = True  # where padding has the same id, it is known by its position
    pops = np.zeros(vocab_size, np.int32)
    pops[list(edits)] = list(edits.values())
    ordinary = legal & (pops == 0) & (np.arange(vocab_size) != eos)
    return Mdp(legal, ordinary, pops, eos, pad)


def _check_ids(
    vocab_size: int, eos: int, pad: int, never: Sequence[int], edits: Mapping[int, int]
) -> None:
    """Raises ValueError if ids are not in the vocabulary or contradict each other."""
    named = [("eos", eos), ("pad", pad)]
    named += [("never", i) for i in never] + [("edits", i) for i in edits]
    for name, i in named:
        if not 0 <= i < vocab_size:
            raise ValueError(f"id {i} of {name} is not in 0 <= id < vocab_size={vocab_size}")
    for edit, count in edits.items():
        if count < 1:
            raise ValueError(f"edits={{{edit}: {count}}}: an edit pops 1 token or more")
    for name, i in named:
        if name in ("never", "edits") and i == eos:
            raise ValueError(f"id {i} is both eos, which is an action, and in {name}")
        if name == "edits" and (i == pad or i in never):
            other = "pad" if i == pad else "never"
            raise ValueError(f"id {i} is in edits, so an action, and in {other}, so none")
