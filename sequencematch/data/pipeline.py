"""Endless, shuffled batches of a task: element [i] is a function of (seed, i) alone.

So a run resumes at step i by asking for [i], and every epoch has fresh noise.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grain
import numpy as np

from sequencematch.core.types import Episode
from sequencematch.data.episodes import Prompts, clean_ids, encode_prompt, lay_out, prompt_ids
from sequencematch.data.noise import Noise, make_noiser
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import Tokenizer


def episodes(
    task: Task,
    tokenizer: Tokenizer,
    split: str,
    *,
    batch_size: int,
    prompt_slots: int,
    max_actions: int,
    noise: Noise,
    seed: int,
) -> grain.MapDataset:
    """Returns the expert's episodes, `Episode`s of numpy arrays with a leading batch axis.

    Args:
      task: where the examples come from.
      tokenizer: the task's; its edits are what the expert fixes noise with.
      split: key of `task.splits`.
      batch_size: B.
      prompt_slots: room for `<bos>` and a prompt.
      max_actions: decisions of an episode; those beyond it are dropped. T = prompt_slots + max_actions.
      noise: the wrong tokens in the clean texts.
      seed: in [0, 2**32).

    Raises:
      ValueError: the noise has nothing to draw from; on access, a prompt does not fit.
    """
    add_noise, slots = make_noiser(task, tokenizer, noise, max_actions), prompt_slots + max_actions

    def episode(example: Example, rng: np.random.Generator) -> Episode:
        prompt = prompt_ids(tokenizer, example.prompt, prompt_slots)
        return lay_out(tokenizer, prompt, add_noise(rng, clean_ids(tokenizer, example)), slots)

    return _shuffle_forever(task.splits[split], seed).random_map(episode).batch(batch_size)


def prompts(
    task: Task,
    tokenizer: Tokenizer,
    split: str,
    *,
    batch_size: int,
    prompt_slots: int,
    seed: int,
) -> grain.MapDataset:
    """Returns prompts to answer, `Prompts` with a leading batch axis.

    Raises:
      ValueError: on access, a prompt does not fit.
    """

    def prompt(example: Example) -> Prompts:
        return encode_prompt(tokenizer, example.prompt, prompt_slots)

    return _shuffle_forever(task.splits[split], seed).map(prompt).batch(batch_size)


def _shuffle_forever(examples: Sequence[Example], seed: int) -> grain.MapDataset:
    """Shuffles every epoch anew; `seed` also seeds later random steps, by index."""
    return grain.MapDataset.source(examples).seed(seed).shuffle().repeat()


class Prefetched:
    """Batches of a data set; while one is used, a thread makes the next of the same stride.

    A batch is a function of its index, so what is read ahead changes nothing but the time it takes.

    Args:
      batches: random access by index.
      stride: the distance of the indices that are read one after another.
    """

    def __init__(self, batches: grain.MapDataset, stride: int = 1):
        self._batches, self._stride = batches, stride
        self._thread = ThreadPoolExecutor(1, "prefetch")
        self._next: tuple[int, Future] | None = None

    def __getitem__(self, index: int) -> Any:
        index_ahead, ahead = self._next or (None, None)
        batch = ahead.result() if ahead and index_ahead == index else self._batches[index]
        following = index + self._stride
        self._next = following, self._thread.submit(self._batches.__getitem__, following)
        return batch
