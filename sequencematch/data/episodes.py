"""From texts to ids, and from ids and actions to episodes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sequencematch.core.types import Episode
from sequencematch.data.noise import Decisions
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import Tokenizer, encode_within, quote


class Prompts(NamedTuple):
    """Prompts for the sampler, P slots each.

    Attributes:
      tokens: int32[P], `<bos>` (if there is one) and the prompt, then `<pad>`.
      start: int32, slot of the prompt's last token.
    """

    tokens: Int[np.ndarray, "*batch P"]
    start: Int[np.ndarray, "*batch"]


def prompt_ids(tokenizer: Tokenizer, text: str, limit: int | None = None) -> list[int]:
    """Returns the ids of `<bos>`, if the tokenizer has one, and a prompt.

    They are those of the prompt alone, whatever is learnt after it: so it is when answers are sampled.

    Raises:
      ValueError: these are more than the limit, or none, or the text has no ids.
    """
    ids = [*([] if tokenizer.bos is None else [tokenizer.bos]), *tokenizer.encode(text)]
    if not ids:
        raise ValueError(
            f"prompt {quote(text)} has no tokens, and the tokenizer no <bos>: the first decision is "
            "taken after a token, so name a prompt"
        )
    if limit is not None and len(ids) > limit:
        own = "" if tokenizer.bos is None else ", <bos> included"
        raise ValueError(
            f"prompt {quote(text)} is too long: {len(ids)} tokens{own}, at most {limit} fit"
        )
    return ids


def encode_prompt(tokenizer: Tokenizer, text: str, prompt_slots: int) -> Prompts:
    """Returns (int32[prompt_slots], start): `<bos>` and the text, padded on the right.

    Raises:
      ValueError: as of `prompt_ids`.
    """
    ids = prompt_ids(tokenizer, text, prompt_slots)
    tokens = np.full(prompt_slots, tokenizer.pad, np.int32)
    tokens[: len(ids)] = ids
    return Prompts(tokens, np.int32(len(ids) - 1))


class AnswerIds(NamedTuple):
    """The ids of a text after a prompt.

    Attributes:
      ids: without `<eos>`.
      is_apart: whether the text was encoded without its prompt. A tokenizer of subwords may join the
        end of a prompt and the beginning of an answer in one id; then the two have to be kept apart.
    """

    ids: list[int]
    is_apart: bool


def answer_ids(
    tokenizer: Tokenizer, prompt: str, text: str, before: list[int] | None = None
) -> AnswerIds:
    """Returns what encode(prompt + text) adds to the prompt's ids.

    It is the text's own ids if it changes the prompt's, or if it does not stand for the text: after
    special tokens some tokenizers add a space, or drop one.

    Args:
      tokenizer, prompt, text: the prompt, and the text after it.
      before: encode(prompt), where it is known.

    Raises:
      ValueError: a text has no ids.
    """
    if getattr(tokenizer, "is_additive", False):
        return AnswerIds(tokenizer.encode(text), False)
    before = tokenizer.encode(prompt) if before is None else before
    whole = tokenizer.encode(prompt + text)
    added = whole[len(before) :] if before and whole[: len(before)] == before else None
    if added is not None and tokenizer.decode(added) == text:
        return AnswerIds(added, False)
    # After an empty prompt too: a space that the tokenizer writes first is no part of the text.
    alone = encode_within(tokenizer, text)
    if added is not None and tokenizer.decode(alone) != text:  # no ids stand for it exactly
        return AnswerIds(added, False)
    return AnswerIds(alone, bool(before))


def clean_ids(tokenizer: Tokenizer, example: Example) -> list[int]:
    """Returns the ids of an example's completion; `<eos>` ends them unless it is cut.

    Raises:
      ValueError: a text has no ids.
    """
    ids = answer_ids(tokenizer, example.prompt, example.completion).ids
    return ids if example.cut else [*ids, tokenizer.eos]


def lay_out(
    tokenizer: Tokenizer, prompt: Sequence[int], decisions: Decisions, slots: int
) -> Episode:
    """Lays a prompt and the actions after it into T slots; actions that do not fit are dropped.

    Args:
      tokenizer: has the ids that fill slots without a token or a decision.
      prompt: ids as of `prompt_ids`, fewer than T.
      decisions: the actions, what each teaches, and whether it counts.
      slots: T.
    """
    start, count = len(prompt) - 1, min(len(decisions.executed), slots - len(prompt))
    end = start + count
    tokens = np.full(slots, tokenizer.pad, np.int32)
    tokens[: start + 1] = prompt
    tokens[start + 1 : end + 1] = decisions.executed[:count]
    # Decision t is made in slot t and executed in slot t + 1, so labels are one slot earlier.
    # Any legal id will do where nothing is decided; masked logits would give NaN gradients.
    labels = np.full(slots, tokenizer.eos, np.int32)
    labels[start:end] = decisions.labels[:count]
    imitate = np.zeros(slots, bool)
    imitate[start:end] = decisions.imitate[:count]
    return Episode(tokens, labels, imitate, np.int32(start), np.int32(end))


def round_slots(length: int) -> int:
    """A number of slots, rounded up to one of four between 2^k and 2^(k+1).

    Few shapes, so few compilations, and at most a quarter more than is needed, or seven.
    """
    step = max(8, 2 ** (length.bit_length() - 3))
    return -(-length // step) * step
