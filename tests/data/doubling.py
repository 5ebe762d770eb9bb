"""A small task, doubling numbers, with batches of it and their rows."""

import numpy as np

from sequencematch.data.noise import Noise
from sequencematch.data.pipeline import episodes
from sequencematch.data.task import Example, Task, exact_match
from sequencematch.data.tokenizer import CharTokenizer

EXAMPLES = [Example(f"{i}+{i}=", str(2 * i)) for i in range(37)]
TASK = Task("double", "0123456789+=", {"train": EXAMPLES}, confusable="135", check=exact_match)
TOKENIZER = CharTokenizer(TASK.alphabet)
SLOTS = 40
HEAVY = Noise("random", 0.4, 0.4)


def batches(noise=HEAVY, *, batch_size=8, slots=SLOTS, seed=0, task=TASK, tokenizer=TOKENIZER):
    return episodes(
        task, tokenizer, "train", batch_size=batch_size, slots=slots, noise=noise, seed=seed
    )


def rows(dataset, count):
    """Every row of the first batches, as episodes without a batch axis."""
    for i in range(count):
        batch = dataset[i]
        for row in range(len(batch.start)):
            yield type(batch)(*(field[row] for field in batch))


def are_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
