"""A small task, doubling numbers, with batches of it and their rows."""

import numpy as np

from sequencematch.data.noise import Noise
from sequencematch.data.pipeline import episodes
from sequencematch.data.task import Example, character_task

EXAMPLES = [Example(f"{i}+{i}=", str(2 * i)) for i in range(37)]
ALPHABET, CONFUSABLE = "0123456789+=", "135"
TASK = character_task("double", ALPHABET, {"train": EXAMPLES}, CONFUSABLE)
TOKENIZER = TASK.tokenizer(("<bkspc>",))
SLOTS, PROMPT_SLOTS = 40, 7
HEAVY = Noise("random", 0.4, 0.4)


def batches(noise=HEAVY, *, batch_size=8, slots=SLOTS, seed=0, task=TASK, tokenizer=TOKENIZER):
    sizes = dict(prompt_slots=PROMPT_SLOTS, max_actions=slots - PROMPT_SLOTS)
    return episodes(
        task, tokenizer, "train", batch_size=batch_size, **sizes, noise=noise, seed=seed
    )


def rows(dataset, count):
    """Every row of the first batches, as episodes without a batch axis."""
    for i in range(count):
        batch = dataset[i]
        for row in range(len(batch.start)):
            yield type(batch)(*(field[row] for field in batch))


def are_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
