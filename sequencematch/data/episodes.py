"""From texts to ids, and from ids and actions to episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sequencematch.core.types import Episode
from sequencematch.data.noise import Decisions
from sequencematch.data.tokenizer import BOS, EOS, PAD, CharTokenizer


class Prompts(NamedTuple):
    """Prompts for the sampler, P slots each.

    Attributes:
      tokens: int32[P], `<bos>` and the prompt, then `<pad>`.
      start: int32, slot of the prompt's last token.
    """

    tokens: Int[np.ndarray, "*batch P"]
    start: Int[np.ndarray, "*batch"]


def prompt_ids(tokenizer: CharTokenizer, text: str, limit: int) -> list[int]:
    """Returns the ids of `<bos>` and a prompt.

    Raises:
      ValueError: these are more than `limit`, or the text has characters outside the alphabet.
    """
    ids = [BOS, *tokenizer.encode(text)]
    if len(ids) > limit:
        raise ValueError(
            f"prompt {text!r} is too long: {len(text)} characters, at most {limit - 1} fit"
        )
    return ids


def encode_prompt(tokenizer: CharTokenizer, text: str, prompt_slots: int) -> Prompts:
    """Returns (int32[prompt_slots], start): `<bos>` and the text, padded on the right.

    Raises:
      ValueError: the text is too long, or has characters outside the alphabet.
    """
    ids = prompt_ids(tokenizer, text, prompt_slots)
    tokens = np.full(prompt_slots, PAD, np.int32)
    tokens[: len(ids)] = ids
    return Prompts(tokens, np.int32(len(ids) - 1))


def lay_out(prompt: Sequence[int], decisions: Decisions, slots: int) -> Episode:
    """Lays a prompt and the actions after it into T slots; actions that do not fit are dropped.

    Args:
      prompt: ids from `<bos>` on, fewer than T.
      decisions: the actions, what each teaches, and whether it counts.
      slots: T.
    """
    start, count = len(prompt) - 1, min(len(decisions.executed), slots - len(prompt))
    end = start + count
    tokens = np.full(slots, PAD, np.int32)
    tokens[: start + 1] = prompt
    tokens[start + 1 : end + 1] = decisions.executed[:count]
    # Decision t is made in slot t and executed in slot t + 1, so labels are one slot earlier.
    # Any legal id will do where nothing is decided; masked logits would give NaN gradients.
    labels = np.full(slots, EOS, np.int32)
    labels[start:end] = decisions.labels[:count]
    imitate = np.zeros(slots, bool)
    imitate[start:end] = decisions.imitate[:count]
    return Episode(tokens, labels, imitate, np.int32(start), np.int32(end))
