"""Noise leaves training texts their ends, or the run is refused with the size that would do."""

import dataclasses

import numpy as np
import pytest
from scipy.stats import nbinom

from sequencematch.data import endings
from sequencematch.data.noise import Noise
from sequencematch.data.pipeline import episodes
from sequencematch.data.task import Example
from tests.data.doubling import EXAMPLES, TASK, TOKENIZER, rows
from tests.data.test_pipeline import TOKENIZERS

NOISE = Noise("random", 0.1)
MANY = 256  # grain shuffles many examples faster than few: an index of 8 takes it 4 ms


def measure(task, tokenizer, noise, max_actions, max_cut):
    return endings.measure_ends(tokenizer, noise, max_actions, max_cut, task)


def of_length(length, prompt="1+1="):
    """A task whose completions have this many characters."""
    return TASK._replace(splits={"train": [Example(prompt, "7" * length)] * 8 * MANY})


def share_in_batches(task, noise, max_actions, tokenizer=TOKENIZER, count=40):
    """The share of the pipeline's episodes without an `<eos>`."""
    sizes = dict(batch_size=64, prompt_slots=9, max_actions=max_actions)
    batches = episodes(task, tokenizer, "train", **sizes, noise=noise, seed=1)
    return np.mean([TOKENIZER.eos not in row.tokens for row in rows(batches, count)])


@pytest.mark.parametrize("prompt", ["1+1=", "12+1111="])
def test_completions_of_31_characters_lose_their_ends_in_32_decisions(prompt):
    """Whatever the prompt: where it fills its slots, 3.4 % of the texts kept their <eos>."""
    found = measure(of_length(31, prompt), TOKENIZER, NOISE, 32, 0.01)
    assert found.share == pytest.approx(1 - 0.9**32, abs=0.02)
    assert found.share == pytest.approx(share_in_batches(of_length(31), NOISE, 32), abs=0.03)
    assert found.fault.startswith("config.max_actions=32 is too small for noise.eta=0.1: 9")
    # Each of 32 pushes goes wrong until it succeeds, and a wrong one takes two decisions.
    quantile = 32 + 2 * nbinom.ppf(0.99, 32, 0.9)
    assert found.enough == pytest.approx(quantile, abs=2)
    assert f"may; {found.enough} would do, or lower noise.eta" in found.fault


@pytest.mark.parametrize("edits", ["bkspc", "reset"])
def test_share_is_that_of_the_batches_and_the_named_size_is_enough(edits):
    task, tokenizer = TASK._replace(splits={"train": EXAMPLES * MANY}), TOKENIZERS[edits]
    found = measure(task, tokenizer, NOISE, 4, 0.01)
    assert found.share == pytest.approx(share_in_batches(task, NOISE, 4, tokenizer), abs=0.04)
    enough = found.enough
    assert share_in_batches(task, NOISE, enough, tokenizer) == pytest.approx(0.01, abs=0.01)
    assert measure(task, tokenizer, NOISE, enough, 0.01).fault == ""
    assert measure(task, tokenizer, NOISE, enough - 1, 0.01).fault != ""


def test_a_reset_takes_much_more_room_than_backspaces():
    shares = [
        measure(of_length(31), TOKENIZERS[edits], Noise("random", 0.02), 40, 1.0).share
        for edits in ("bkspc", "reset")
    ]
    assert shares[0] < 0.01 and shares[1] > 0.2


def test_noise_that_no_size_holds_is_said():
    found = measure(of_length(31), TOKENIZERS["reset"], Noise("random", 0.5), 32, 0.01)
    assert found.share == 1 and "even 128 would not do" in found.fault


def test_max_cut_is_what_may_be_lost():
    share = measure(of_length(31), TOKENIZER, NOISE, 40, 0.0).share
    assert 0.05 < share < 0.9
    assert measure(of_length(31), TOKENIZER, NOISE, 40, share).fault == ""
    assert measure(of_length(31), TOKENIZER, NOISE, 40, share - 1e-3).fault != ""


def test_nothing_is_lost_without_noise_and_of_windows_of_running_text():
    cut = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    windows = TASK._replace(splits={"train": cut})
    found = measure(windows, TOKENIZER, NOISE, 1, 0.0)
    assert found == endings.Ends(unread=found.unread) and 0 < found.unread < 1
    for noise in (Noise("none", 0.5), Noise("random", 0.0)):
        assert measure(TASK, TOKENIZER, noise, 3, 0.0) == endings.Ends()


@pytest.mark.parametrize("limit", [20, 31, 40])
def test_windows_are_read_as_far_as_their_noise_leaves_room(limit):
    """The n-th token is written after n pushes and two decisions for each that goes wrong before."""
    window = Example("1+1=", "7" * 31, cut=True)
    found = measure(TASK._replace(splits={"train": [window]}), TOKENIZER, NOISE, limit, 0.0)
    n = np.arange(1, 32)
    written = nbinom.cdf((limit - n) // 2, n, 1 - NOISE.eta) * (n <= limit)
    assert found.unread == pytest.approx(1 - written.sum() / 31, abs=0.01)


def test_what_was_read_counts_though_a_reset_takes_it_away():
    reset = TOKENIZERS["reset"]
    ((action, _),) = reset.pops.items()
    text, wrong = reset.encode("123"), reset.encode("9")[0]
    executed = [*text[:2], wrong, action, text[0]]
    assert endings._count_read(text, executed, reset.pops) == 2
    back = next(iter(TOKENIZER.pops))
    executed = [text[0], wrong, back, back, text[1], back, *text]
    assert [endings._count_read(text, executed[:n], TOKENIZER.pops) for n in range(10)] == [
        *(0, 1, 1, 1, 1, 1, 1, 1, 2, 3)
    ]


@pytest.mark.stress
def test_texts_up_to_the_longest_that_keeps_its_end_lose_few_and_longer_ones_more():
    texts = [Example("1=", "7" * n) for n in range(31)]
    found = measure(TASK._replace(splits={"train": texts}), TOKENIZER, NOISE, 32, 0.01)
    assert 15 < found.longest < 30
    kept, more = (
        # With `<eos>` of this length at most.
        TASK._replace(splits={"train": texts[:length] * MANY})
        for length in (found.longest, found.longest + 2)
    )
    assert share_in_batches(kept, NOISE, 32) < 0.015
    assert share_in_batches(more, NOISE, 32) > share_in_batches(kept, NOISE, 32)
    long = TASK._replace(splits={"train": [texts[-1]]})
    assert measure(long, TOKENIZER, NOISE, 32, 0.01).longest == 0
