"""Endless, shuffled batches of a task: element [i] is a function of (seed, i) alone.

Resuming at step i is therefore asking for [i], and every epoch has fresh noise.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import Int

from sequencematch.core import noise as environment
from sequencematch.core.mdp import EVERYTHING
from sequencematch.core.types import Episode
from sequencematch.data.task import Example, Task
from sequencematch.data.tokenizer import BOS, EOS, PAD, CharTokenizer

# What a wrong token may be, as characters. The training step redraws those of `policy`, which are
# but placeholders here.
WRONG: dict[str, Callable[[Task], str]] = {
    "none": lambda task: "",
    "random": lambda task: task.alphabet,
    "policy": lambda task: task.alphabet,
    "ground_truth": lambda task: task.confusable,
}


class Noise(NamedTuple):
    """How the environment spoils the expert's texts.

    Attributes:
      kind: a key of `WRONG`.
      eta: probability in [0, 1) that a push goes wrong.
      run: probability in [0, 1) that another wrong token follows a wrong one.
      step: what a wrong token teaches, a key of `noise.NOISE_STEPS`.
    """

    kind: str = "none"
    eta: float = 0.0
    run: float = 0.0
    step: str = "clean"


class Prompts(NamedTuple):
    """Prompts for the sampler, P slots each.

    Attributes:
      tokens: int32[P], `<bos>` and the prompt, then `<pad>`.
      start: int32, slot of the prompt's last token.
    """

    tokens: Int[np.ndarray, "*batch P"]
    start: Int[np.ndarray, "*batch"]


def episodes(
    task: Task,
    tokenizer: CharTokenizer,
    split: str,
    *,
    batch_size: int,
    slots: int,
    noise: Noise,
    seed: int,
) -> grain.MapDataset:
    """Returns the expert's episodes, `Episode`s of numpy arrays with a leading batch axis.

    Args:
      task: where the examples come from.
      tokenizer: one over the task's alphabet; its edits take wrong tokens back.
      split: key of `task.splits`.
      batch_size: B.
      slots: T; what does not fit is dropped.
      noise: what goes wrong in the clean texts.
      seed: in [0, 2**32).

    Raises:
      ValueError: the noise has nothing to draw from; on access, a prompt leaves no slot for a
        decision.
    """
    wrong = tokenizer.encode("".join(sorted(set(WRONG[noise.kind](task)))))
    eta = noise.eta if noise.kind != "none" else 0.0
    if eta and len(wrong) < 2:
        raise ValueError(
            f"noise.kind={noise.kind!r} needs two characters or more to draw a wrong one from; "
            f"task {task.name!r} gives {tokenizer.decode(wrong)!r}"
        )

    spoilt = partial(
        environment.noised,
        eta=eta,
        run=noise.run,
        wrong=wrong,
        mending=mending(tokenizer.pops),
        step=noise.step,
        limit=slots,
    )

    def episode(example: Example, rng: np.random.Generator) -> Episode:
        prompt = _prompt_ids(tokenizer, example.prompt, slots - 1)
        clean = [*tokenizer.encode(example.completion), EOS]
        return laid_out(prompt, spoilt(rng, clean), slots)

    return _endless(task.splits[split], seed).random_map(episode).batch(batch_size)


def mending(pops: Mapping[int, int]) -> environment.Mending:
    """How the expert takes wrong tokens back: with RESET if it has it, else with as few pops as do.

    Args:
      pops: edit id -> tokens it pops; RESET alone, or others of which one pops 1.
    """
    resets = [edit for edit, k in pops.items() if k == EVERYTHING]
    return environment.resetting(resets[0]) if resets else environment.popping(pops)


def prompts(
    task: Task,
    tokenizer: CharTokenizer,
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

    return _endless(task.splits[split], seed).map(prompt).batch(batch_size)


def encode_prompt(tokenizer: CharTokenizer, text: str, prompt_slots: int) -> Prompts:
    """Returns (int32[prompt_slots], start): `<bos>` and the text, padded on the right.

    Raises:
      ValueError: the text is too long, or has characters outside the alphabet.
    """
    ids = _prompt_ids(tokenizer, text, prompt_slots)
    tokens = np.full(prompt_slots, PAD, np.int32)
    tokens[: len(ids)] = ids
    return Prompts(tokens, np.int32(len(ids) - 1))


def laid_out(prompt: Sequence[int], happened: environment.Noised, slots: int) -> Episode:
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


def read_through(
    task: Task,
    tokenizer: CharTokenizer,
    *,
    prompt_slots: int,
    max_actions: int,
    answer_actions: int,
) -> int:
    """Reads all examples, and says before any training what would not fit; returns a checksum.

    It is of all that decides batches: the examples, and the characters that ids and noise are made of.

    Args:
      task, tokenizer: the examples and their alphabet.
      prompt_slots: for `<bos>` and a prompt.
      max_actions: decisions of a sampled episode, which must be able to be what is learnt, so that
        methods with samples and without learn from the same examples.
      answer_actions: decisions of an answer, which must be able to be right.

    Raises:
      ValueError: an example does not fit, or has characters outside the alphabet.
    """
    characters = [sorted({*text}) for text in (task.alphabet, task.confusable)]
    checksum = zlib.crc32(repr(characters).encode())
    for split, examples in task.splits.items():
        learnt = split == "train"
        limit = ("max_actions", max_actions) if learnt else ("evaluate.max_actions", answer_actions)
        for i in range(len(examples)):
            example = examples[i]
            checksum = zlib.crc32(repr((split, *example)).encode(), checksum)
            prompt, answer = map(tokenizer.encode, example)
            which = f"example {i} of {split}, {example.prompt!r}"
            _check_fits("prompt_slots", prompt_slots, 1 + len(prompt), which)
            _check_fits(*limit, len(answer) + 1, which)
    return checksum


def _check_fits(key: str, given: int, needed: int, which: str) -> None:
    if given < needed:
        raise ValueError(f"config.{key}={given} is too small: {which}, needs {needed}")


def _prompt_ids(tokenizer: CharTokenizer, text: str, limit: int) -> list[int]:
    ids = [BOS, *tokenizer.encode(text)]
    if len(ids) > limit:
        raise ValueError(
            f"prompt {text!r} is too long: {len(text)} characters, at most {limit - 1} fit"
        )
    return ids


def _endless(examples: Sequence[Example], seed: int) -> grain.MapDataset:
    """Every epoch in another order; `seed` also seeds what follows, per index."""
    return grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
