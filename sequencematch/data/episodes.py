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


def encode_prompt(tokenizer: CharTokenizer, text: str, prompt_slots: int) -> Prompts:
    """Returns (int32[prompt_slots], start): `<bos>` and the text, padded on the right.

    Raises:
      ValueError: the text is too long, or has characters outside the alphabet.
    """
    ids = prompt_ids(tokenizer, text, prompt_slots)
    tokens = np.full(prompt_slots, PAD, np.int32)
    tokens[: len(ids)] = ids
    return Prompts(tokens, np.int32(len(ids) - 1))


def lay_out(prompt: Sequence[int], happened: Decisions, slots: int) -> Episode:
    """Lays a prompt and the actions after it into T slots; actions that do not fit are dropped.

    Args:
      prompt: ids from `<bos>` on, fewer than T.
      happened: the actions, what each teaches, and whether it counts.
      slots: T.
    """
    start, count = len(prompt) - 1, min(len(happened.executed), slots - len(prompt))
    end = start + count
    tokens = np.full(slots, PAD, np.int32)
    tokens[: start + 1] = prompt
    tokens[start + 1 : end + 1] = happened.executed[:count]
    # Any legal id will do where nothing is decided; masked logits would give NaN gradients.
    learnt = np.full(slots, EOS, np.int32)
    learnt[start:end] = happened.labels[:count]
    counts = np.zeros(slots, bool)
    counts[start:end] = happened.imitate[:count]
    return Episode(tokens, learnt, counts, np.int32(start), np.int32(end))


def prompt_ids(tokenizer: CharTokenizer, text: str, limit: int) -> list[int]:
    ids = [BOS, *tokenizer.encode(text)]
    if len(ids) > limit:
        raise ValueError(
            f"prompt {text!r} is too long: {len(text)} characters, at most {limit - 1} fit"
        )
    return ids
