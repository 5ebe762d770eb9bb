import dataclasses
import os
from functools import partial

import jax
import numpy as np
import pytest

from sequencematch.core import mdp
from sequencematch.core.trajectory import build_trajectory
from sequencematch.data.noise import NOISE_STEPS, Noise
from sequencematch.data.pipeline import episodes, prompts
from sequencematch.data.task import Example, character_ids
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer
from tests import oracles
from tests.data.doubling import (
    ALPHABET,
    CONFUSABLE,
    EXAMPLES,
    PROMPT_SLOTS,
    SLOTS,
    TASK,
    TOKENIZER,
    are_equal,
    batches,
    rows,
)

# One for each way to fix noise.
TOKENIZERS = {
    "bkspc": TOKENIZER,
    "pops": CharTokenizer(ALPHABET, ("<bkspc>", "<bkspc2>", "<bkspc4>")),
    "reset": CharTokenizer(ALPHABET, ("<reset>",)),
    "bytes": ByteTokenizer(),
}
BOS, EOS, PAD = TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.pad
COMPLETIONS = {example.prompt: example.completion for example in EXAMPLES}


def replay(episode, edits):
    """The prompt, and the text above it before each decision and at the end, by a plain stack."""
    # The oracle pops one by one: as many pops as there are slots remove everything.
    edits = {edit: min(k, len(episode.tokens)) for edit, k in edits.items()}
    tokens, start = episode.tokens.tolist(), int(episode.start)
    prompt, actions = tokens[: start + 1], tokens[start + 1 : episode.end + 1]
    return prompt, [text[start + 1 :] for text in oracles.texts(prompt, actions, edits)]


def wrong_tokens(dataset, count):
    """All that was executed at the noise steps of the first batches."""
    tokens = set()
    for episode in rows(dataset, count):
        executed = episode.tokens[episode.start + 1 : episode.end + 1]
        is_noise = executed != episode.labels[episode.start : episode.end]
        tokens |= set(executed[is_noise].tolist())
    return tokens


def test_batch_has_the_documented_shapes_and_types():
    batch = batches()[0]
    assert [(f.shape, f.dtype.name) for f in batch] == [
        ((8, SLOTS), "int32"),
        ((8, SLOTS), "int32"),
        ((8, SLOTS), "bool"),
        ((8,), "int32"),
        ((8,), "int32"),
    ]


def test_batch_i_is_a_function_of_seed_and_i():
    order = [7, 0, 1000, 3, 3, 1]
    one, two = batches(), batches()
    ahead = {i: one[i] for i in order}
    assert all(are_equal(two[i], ahead[i]) for i in sorted(order))
    assert not are_equal(batches(seed=1)[0], ahead[0])


def test_epoch_has_every_example_once_and_the_next_another_order():
    dataset = batches(Noise(), batch_size=len(EXAMPLES))
    first, second = ([TOKENIZER.decode(row) for row in dataset[i].tokens] for i in (0, 1))
    assert sorted(first) == sorted(second) == sorted(e.prompt + e.completion for e in EXAMPLES)
    assert first != second


def test_every_epoch_has_fresh_noise():
    dataset = batches(batch_size=len(EXAMPLES))
    executed = [
        {TOKENIZER.decode(r.tokens[: r.start + 1]): tuple(r.tokens) for r in rows([batch], 1)}
        for batch in (dataset[0], dataset[1])
    ]
    assert executed[0].keys() == executed[1].keys()
    assert executed[0] != executed[1]


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("kind", ["random", "policy", "ground_truth"])
def test_every_row_replays_to_the_clean_text(kind, tokenizer):
    for episode in rows(batches(Noise(kind, 0.3, 0.3), slots=200, tokenizer=tokenizer), 6):
        prompt, texts = replay(episode, tokenizer.pops)
        assert prompt[0] == BOS and texts[-1][-1] == EOS
        assert tokenizer.decode(texts[-1]) == COMPLETIONS[tokenizer.decode(prompt)]
        assert not episode.tokens[episode.end + 1 :].any()
        assert np.flatnonzero(episode.imitate).tolist() == list(range(episode.start, episode.end))
        assert (episode.labels[~episode.imitate] == EOS).all()


def fixing_edit(wrong, pops):
    """The edit that the expert takes with `wrong` wrong tokens on top: the largest that fits."""
    fitting = {edit: k for edit, k in pops.items() if k <= wrong} or pops
    return max(fitting, key=fitting.get)


@pytest.mark.parametrize("step", NOISE_STEPS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_wrong_token_teaches_what_its_noise_step_says(tokenizer, step):
    """At every decision: what the expert does at that text, what is executed, what is taught."""
    noise, pops, first, further = Noise("random", 0.3, 0.5, step), tokenizer.pops, 0, 0
    for episode in rows(batches(noise, slots=60, tokenizer=tokenizer), 20):
        prompt, texts = replay(episode, pops)
        clean = [*tokenizer.encode(COMPLETIONS[tokenizer.decode(prompt)]), EOS]
        for time, text in enumerate(texts[:-1], start=episode.start):
            executed, label = int(episode.tokens[time + 1]), int(episode.labels[time])
            right = len(os.path.commonprefix([text, clean]))
            wrong = len(text) - right
            expert = fixing_edit(wrong, pops) if wrong else clean[right]
            if executed == expert:
                assert label == expert and episode.imitate[time]
                continue
            assert executed in tokenizer.ordinary
            first, further = first + (not wrong), further + bool(wrong)
            assert label == (executed if step == "imitate" else expert)
            assert episode.imitate[time] == (step != "skip")
    assert first > 100 and further > 50


@pytest.mark.parametrize("noise", [Noise(), Noise("random", 0.4, 0.3)])
def test_cut_example_has_no_eos_and_its_trajectory_is_cut(noise):
    """The expert of a window of running text does not end it: V(s_N) is bootstrapped."""
    windows = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    task, pops = TASK._replace(splits={"train": windows}), TOKENIZER.pops
    process = mdp.make(TOKENIZER.vocab_size, eos=EOS, pad=PAD, never=[BOS], edits=pops)
    build = jax.jit(partial(build_trajectory, process))
    for episode in rows(batches(noise, slots=200, task=task), 3):
        prompt, texts = replay(episode, pops)
        assert TOKENIZER.decode(texts[-1]) == COMPLETIONS[TOKENIZER.decode(prompt)]
        assert EOS not in episode.tokens and not build(episode).finished


def test_text_that_restarts_for_ever_is_cut_after_max_actions():
    """With this much noise hardly any text is ever complete; it ends all the same."""
    task = TASK._replace(splits={"train": [Example("0=", "0" * 30)] * 8})
    dataset = batches(Noise("random", 0.5, 0.0), task=task, tokenizer=TOKENIZERS["reset"])
    for episode in rows(dataset, 1):
        assert episode.end - episode.start == SLOTS - PROMPT_SLOTS and EOS not in episode.tokens


def test_an_episode_has_at_most_max_actions_decisions_whatever_its_prompt():
    """Prompts are of 5 to 7 slots; many texts need more than 6 decisions, and none has more."""
    lengths = set()
    for episode in rows(batches(slots=PROMPT_SLOTS + 6), 8):
        lengths.add((int(episode.start), int(episode.end - episode.start)))
    assert {(start, 6) for start in (4, 6)} <= lengths
    assert max(count for _, count in lengths) == 6


@pytest.mark.parametrize("slots", [3, 5])
def test_a_prompt_that_does_not_fit_is_refused(slots):
    task = TASK._replace(splits={"train": [Example("12+12=", "24")]})
    sizes = dict(batch_size=1, prompt_slots=slots, max_actions=40, noise=Noise(), seed=0)
    with pytest.raises(ValueError, match=f"'12[+]12=' is too long: .*at most {slots} fit"):
        episodes(task, TOKENIZER, "train", **sizes)[0]


@pytest.mark.parametrize("noise", [Noise("random", 0.0, 0.5), Noise("none", 0.9, 0.5)])
def test_without_noise_the_clean_text_is_executed(noise):
    dataset = batches(noise)
    assert are_equal(dataset[2], batches(Noise())[2])
    for episode in rows(dataset, 3):
        start, end = episode.start, episode.end
        executed = episode.tokens[start + 1 : end + 1]
        assert (executed == episode.labels[start:end]).all()
        assert not set(executed.tolist()) & set(TOKENIZER.pops)


def test_ground_truth_noise_is_confusable_and_never_right():
    found = wrong_tokens(batches(Noise("ground_truth", 0.5, 0.0)), 20)
    assert found == set(TOKENIZER.encode(CONFUSABLE))


@pytest.mark.parametrize("kind", ["random", "policy"])
def test_random_noise_is_any_ordinary_character(kind):
    found = wrong_tokens(batches(Noise(kind, 0.5, 0.0)), 40)
    assert found == set(TOKENIZER.encode(ALPHABET))


def test_noise_needs_two_tokens_to_draw_from():
    task = TASK._replace(confusable=character_ids("1"))
    with pytest.raises(
        ValueError, match=r"'ground_truth' needs two tokens .*'double' gives \['1'\]"
    ):
        batches(Noise("ground_truth", 0.1, 0.0), task=task)


def test_prompts_are_a_function_of_seed_and_i():
    one, two = (
        prompts(TASK, TOKENIZER, "train", batch_size=4, prompt_slots=10, seed=3) for _ in range(2)
    )
    ahead = [one[i] for i in (30, 2, 0)]
    assert all(are_equal(two[i], batch) for i, batch in zip((30, 2, 0), ahead, strict=True))
    for tokens, start in zip(*ahead[0], strict=True):
        assert tokens[0] == BOS and TOKENIZER.decode(tokens) in COMPLETIONS
        assert (tokens[start + 1 :] == PAD).all() and (tokens[: start + 1] != PAD).all()
