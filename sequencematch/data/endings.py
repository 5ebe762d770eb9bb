"""What training texts lose of their ends, because noise makes them longer than an episode may be."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from sequencematch.core.keys import Purpose, host_seed
from sequencematch.data.episodes import clean_ids
from sequencematch.data.noise import Decisions, Noise, make_noiser
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import Tokenizer

_TEXTS = 1000  # that noise is tried on
_REACH = 4  # a noised text is followed to this multiple of what the longest clean one takes


class Ends(NamedTuple):
    """What noise does to training texts, `max_actions` being what it is.

    Attributes:
      share: of the texts with an `<eos>`, the share that loses it.
      enough: what max_actions must be at least, so that no more than `max_cut` of them do.
      longest: up to which length, `<eos>` included, no more than `max_cut` of them do.
      fault: what is wrong if more of all of them do, "" otherwise.
      unread: of the tokens of texts that are cut, such as windows, the share that has no room.
    """

    share: float = 0.0
    enough: int = 0
    longest: int = 0
    fault: str = ""
    unread: float = 0.0


def measure_ends(
    tokenizer: Tokenizer, noise: Noise, max_actions: int, max_cut: float, task: Task
) -> Ends:
    """Tries the noise on a thousand training texts: `max_actions` must hold all but `max_cut` of them.

    Texts are taken evenly from the training examples, and the draws are the same for every seed of a
    run. A text that is cut, such as a window of running text, has no end that must be held: it is cut
    at `max_actions`, as the policy's are, and what of it is not learnt is only counted.

    Raises:
      ValueError: the noise has nothing to draw from.
    """
    examples = task.splits.get("train", ())
    if noise.kind == "none" or not noise.eta or not len(examples):
        return Ends()
    chosen = [examples[i * len(examples) // _TEXTS] for i in range(_TEXTS)]
    whole, cut = (
        [clean_ids(tokenizer, example) for example in chosen if example.cut == is_cut]
        for is_cut in (False, True)
    )
    add_noise = make_noiser(task, tokenizer, noise, max_actions)
    ends = _measure_whole(tokenizer, noise, max_actions, max_cut, task, whole) if whole else Ends()
    return ends._replace(unread=_share_unread(tokenizer, add_noise, cut) if cut else 0.0)


def _share_unread(
    tokenizer: Tokenizer, add_noise: Callable[..., Decisions], texts: Sequence[Sequence[int]]
) -> float:
    """The share of the tokens of texts that their noised ones, cut to what there is room for, lack."""
    rng = np.random.default_rng(host_seed(0, Purpose.EPISODES))
    read = sum(_count_read(text, add_noise(rng, text).executed, tokenizer.pops) for text in texts)
    return 1 - read / sum(map(len, texts))


def _count_read(text: Sequence[int], executed: Sequence[int], pops: Mapping[int, int]) -> int:
    """How many tokens of a text are written, from its first one on, when the actions are executed."""
    # Tokens that stand, how many of them from the first on are the text's, the most that were.
    depth = right = most = 0
    for action in executed:
        depth = max(0, depth - pops[action]) if action in pops else depth + 1
        is_next = depth == right + 1 and action == text[right]
        right = right + 1 if is_next else min(right, depth)
        most = max(most, right)
    return most


def _measure_whole(
    tokenizer: Tokenizer,
    noise: Noise,
    max_actions: int,
    max_cut: float,
    task: Task,
    texts: Sequence[Sequence[int]],
) -> Ends:
    """What is lost of texts with an `<eos>`."""
    reach = _REACH * max(max_actions, *map(len, texts))
    add_noise = make_noiser(task, tokenizer, noise, reach)
    rng = np.random.default_rng(host_seed(0, Purpose.EPISODES))
    clean = np.array([len(text) for text in texts])
    noised = np.array([len(add_noise(rng, text).executed) for text in texts])
    share, may = float(np.mean(noised > max_actions)), math.floor(max_cut * len(texts))
    enough = int(np.sort(noised)[max(len(texts) - 1 - may, 0)])
    longest = _longest_that_keeps(clean, noised > max_actions, max_cut)
    if share <= max_cut:
        return Ends(share, enough, longest)
    needed = f"{enough} would do" if enough < reach else f"even {reach} would not do"
    return Ends(
        share,
        enough,
        longest,
        f"config.max_actions={max_actions} is too small for noise.eta={noise.eta:g}: {share:.1%} of "
        f"the noised training texts lose their <eos>, and noise.max_cut={max_cut:g} may; {needed}, "
        "or lower noise.eta",
    )


def _longest_that_keeps(
    clean: Int[np.ndarray, " texts"], is_lost: np.ndarray, max_cut: float
) -> int:
    """The largest length of which, with all that is shorter, at most `max_cut` is lost; else 0."""
    order = np.argsort(clean)
    shares = np.cumsum(is_lost[order]) / np.arange(1, len(clean) + 1)
    lengths, last = clean[order], np.flatnonzero(np.append(np.diff(clean[order]), 1))
    return int(max(lengths[last][shares[last] <= max_cut], default=0))
