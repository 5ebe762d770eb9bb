"""How many training texts lose their end, because noise makes them longer than an episode may be."""

import math
from typing import NamedTuple

import numpy as np

from sequencematch.core.keys import Purpose, host_seed
from sequencematch.data.episodes import clean_ids
from sequencematch.data.noise import Noise, make_noiser
from sequencematch.data.task import Task
from sequencematch.data.tokenizer import Tokenizer

_TEXTS = 1000  # that noise is tried on
_REACH = 4  # a noised text is followed to this multiple of what the longest clean one takes


class Ends(NamedTuple):
    """What noise does to the ends of training texts.

    Attributes:
      share: of the texts that have an `<eos>`, the share that loses it.
      enough: what max_actions must be at least.
      fault: what is wrong if it is less, "" otherwise.
    """

    share: float = 0.0
    enough: int = 0
    fault: str = ""


def measure_ends(
    task: Task, tokenizer: Tokenizer, noise: Noise, max_actions: int, max_cut: float
) -> Ends:
    """Tries the noise on a thousand training texts: `max_actions` must hold all but `max_cut` of them.

    Texts are taken evenly from the training examples, and the draws are the same for every seed of a
    run. A text that is cut, such as a window of running text, has no end to lose.

    Raises:
      ValueError: the noise has nothing to draw from.
    """
    examples = task.splits.get("train", ())
    chosen = (examples[i * len(examples) // _TEXTS] for i in range(_TEXTS if len(examples) else 0))
    texts = [clean_ids(tokenizer, example) for example in chosen if not example.cut]
    if noise.kind == "none" or not noise.eta or not texts:
        return Ends()
    reach = _REACH * max(max_actions, *map(len, texts))
    add_noise = make_noiser(task, tokenizer, noise, reach)
    rng = np.random.default_rng(host_seed(0, Purpose.EPISODES))
    lengths = sorted(len(add_noise(rng, text).executed) for text in texts)
    share = sum(length > max_actions for length in lengths) / len(lengths)
    enough = lengths[max(len(lengths) - 1 - math.floor(max_cut * len(lengths)), 0)]
    if share <= max_cut:
        return Ends(share, enough)
    needed = f"{enough} would do" if enough < reach else f"even {reach} would not do"
    return Ends(
        share,
        enough,
        f"config.max_actions={max_actions} is too small for noise.eta={noise.eta:g}: {share:.1%} of "
        f"the noised training texts lose their <eos>, and noise.max_cut={max_cut:g} may; {needed}, "
        "or lower noise.eta",
    )
