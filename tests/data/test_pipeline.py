import os

import numpy as np
import pytest

from sequencematch.data.checks import check_examples
from sequencematch.data.episodes import encode_prompt, lay_out
from sequencematch.data.noise import NOISE_STEPS, Decisions, Noise
from sequencematch.data.pipeline import episodes, prompts
from sequencematch.data.task import Example, Task, exact
from sequencematch.data.tokenizer import BKSPC, BOS, EOS, PAD, CharTokenizer
from tests import oracles

EXAMPLES = [Example(f"{i}+{i}=", str(2 * i)) for i in range(37)]
TASK = Task("double", "0123456789+=", {"train": EXAMPLES}, confusable="135", check=exact)
TOKENIZER = CharTokenizer(TASK.alphabet)
SLOTS = 40
# Every way to take tokens back.
TOKENIZERS = {
    "bkspc": TOKENIZER,
    "pops": CharTokenizer(TASK.alphabet, ("<bkspc>", "<bkspc2>", "<bkspc4>")),
    "reset": CharTokenizer(TASK.alphabet, ("<reset>",)),
}
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


def replayed(episode, edits):
    """The prompt, and what stands above it at each decision and in the end, by a plain stack."""
    # The oracle pops one by one: as many as there are slots are everything.
    edits = {edit: min(k, len(episode.tokens)) for edit, k in edits.items()}
    tokens, start = episode.tokens.tolist(), int(episode.start)
    prompt, actions = tokens[: start + 1], tokens[start + 1 : episode.end + 1]
    return prompt, [text[start + 1 :] for text in oracles.texts(prompt, actions, edits)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_shapes_and_types():
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
    assert all(same(two[i], ahead[i]) for i in sorted(order))
    assert not same(batches(seed=1)[0], ahead[0])


def test_an_epoch_has_every_example_once_and_the_next_another_order():
    dataset = batches(Noise(), batch_size=len(EXAMPLES))
    first, second = ([TOKENIZER.decode(row) for row in dataset[i].tokens] for i in (0, 1))
    assert sorted(first) == sorted(second) == sorted(map("".join, EXAMPLES))
    assert first != second


def test_every_epoch_has_fresh_noise():
    dataset = batches(batch_size=len(EXAMPLES))
    executed = [
        {TOKENIZER.decode(r.tokens[: r.start + 1]): tuple(r.tokens) for r in rows([batch], 1)}
        for batch in (dataset[0], dataset[1])
    ]
    assert executed[0].keys() == executed[1].keys()
    assert executed[0] != executed[1]


KNOWN = {example.prompt: example.completion for example in EXAMPLES}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("kind", ["random", "policy", "ground_truth"])
def test_every_row_replays_to_the_clean_text(kind, tokenizer):
    for episode in rows(batches(Noise(kind, 0.3, 0.3), slots=200, tokenizer=tokenizer), 6):
        prompt, texts = replayed(episode, tokenizer.pops)
        assert prompt[0] == BOS and texts[-1][-1] == EOS
        assert tokenizer.decode(texts[-1]) == KNOWN[tokenizer.decode(prompt)]
        assert not episode.tokens[episode.end + 1 :].any()
        assert np.flatnonzero(episode.imitate).tolist() == list(range(episode.start, episode.end))
        assert (episode.labels[~episode.imitate] == EOS).all()


def mending(wrong, pops):
    """The edit that the expert takes with so many wrong tokens on top: the largest that fits."""
    fitting = {edit: k for edit, k in pops.items() if k <= wrong} or pops
    return max(fitting, key=fitting.get)


@pytest.mark.parametrize("step", NOISE_STEPS)
@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_wrong_token_teaches_what_its_step_says(tokenizer, step):
    """At every decision: what the expert does at that text, what happened, what is taught."""
    noise, pops, first, further = Noise("random", 0.3, 0.5, step), tokenizer.pops, 0, 0
    for episode in rows(batches(noise, slots=60, tokenizer=tokenizer), 20):
        prompt, texts = replayed(episode, pops)
        clean = [*tokenizer.encode(KNOWN[tokenizer.decode(prompt)]), EOS]
        for time, text in enumerate(texts[:-1], start=episode.start):
            happened, taught = int(episode.tokens[time + 1]), int(episode.labels[time])
            right = len(os.path.commonprefix([text, clean]))
            wrong = len(text) - right
            expert = mending(wrong, pops) if wrong else clean[right]
            if happened == expert:
                assert taught == expert and episode.imitate[time]
                continue
            assert happened in tokenizer.encode(TASK.alphabet)
            first, further = first + (not wrong), further + bool(wrong)
            assert taught == (happened if step == "imitate" else expert)
            assert episode.imitate[time] == (step != "skip")
    assert first > 100 and further > 50


def test_an_expert_that_always_starts_anew_is_cut():
    """At this noise hardly any text is ever whole: no more is made of it than fits."""
    task = TASK._replace(splits={"train": [Example("0=", "0" * 30)] * 8})
    dataset = batches(Noise("random", 0.5, 0.0), task=task, tokenizer=TOKENIZERS["reset"])
    for episode in rows(dataset, 1):
        assert episode.end == SLOTS - 1 and EOS not in episode.tokens


@pytest.mark.parametrize("noise", [Noise("random", 0.0, 0.5), Noise("none", 0.9, 0.5)])
def test_no_noise_is_the_clean_text(noise):
    dataset = batches(noise)
    assert same(dataset[2], batches(Noise())[2])
    for episode in rows(dataset, 3):
        start, end = episode.start, episode.end
        executed = episode.tokens[start + 1 : end + 1]
        assert (executed == episode.labels[start:end]).all() and BKSPC not in executed


def test_ground_truth_noise_is_confusable_and_never_right():
    wrong = set(TOKENIZER.encode(TASK.confusable))
    seen = set()
    for episode in rows(batches(Noise("ground_truth", 0.5, 0.0)), 20):
        executed = episode.tokens[episode.start + 1 : episode.end + 1]
        seen |= set(executed[executed != episode.labels[episode.start : episode.end]].tolist())
    assert seen == wrong


@pytest.mark.parametrize("kind", ["random", "policy"])
def test_random_noise_is_any_ordinary_character(kind):
    seen = set()
    for episode in rows(batches(Noise(kind, 0.5, 0.0)), 40):
        executed = episode.tokens[episode.start + 1 : episode.end + 1]
        seen |= set(executed[executed != episode.labels[episode.start : episode.end]].tolist())
    assert seen == set(TOKENIZER.encode(TASK.alphabet))


def test_what_does_not_fit_is_dropped():
    for whole, cut in zip(rows(batches(slots=99), 4), rows(batches(slots=9), 4), strict=True):
        assert cut.start == whole.start
        assert cut.end == min(whole.end, 8)
        assert (cut.tokens == np.where(np.arange(9) <= whole.end, whole.tokens[:9], PAD)).all()
        assert (cut.labels[:8] == whole.labels[:8]).all() and cut.labels[8] == EOS
        assert (cut.imitate[:8] == whole.imitate[:8]).all() and not cut.imitate[8]


def test_layout_of_one_episode():
    counts = [False, True, True, True]
    happened = Decisions([7, BKSPC, 6, EOS], [6, BKSPC, 6, EOS], counts)
    episode = lay_out([BOS, 5], happened, slots=8)
    assert episode.tokens.tolist() == [BOS, 5, 7, BKSPC, 6, EOS, PAD, PAD]
    assert episode.labels.tolist() == [EOS, 6, BKSPC, 6, EOS, EOS, EOS, EOS]
    assert episode.imitate.tolist() == [False, *counts, False, False, False]
    assert (episode.start, episode.end) == (1, 5)


def test_noise_needs_something_to_draw_from():
    task = TASK._replace(confusable="1")
    with pytest.raises(
        ValueError, match="'ground_truth' needs two characters .*'double' gives '1'"
    ):
        batches(Noise("ground_truth", 0.1, 0.0), task=task)


def test_prompts_are_a_function_of_seed_and_i():
    one, two = (
        prompts(TASK, TOKENIZER, "train", batch_size=4, prompt_slots=10, seed=3) for _ in range(2)
    )
    ahead = [one[i] for i in (30, 2, 0)]
    assert all(same(two[i], batch) for i, batch in zip((30, 2, 0), ahead, strict=True))
    known = {example.prompt for example in EXAMPLES}
    for tokens, start in zip(*ahead[0], strict=True):
        assert tokens[0] == BOS and TOKENIZER.decode(tokens) in known
        assert (tokens[start + 1 :] == PAD).all() and (tokens[: start + 1] != PAD).all()


def test_a_prompt_that_fits_exactly():
    tokens, start = encode_prompt(TOKENIZER, "1+1=", 5)
    assert TOKENIZER.symbols(tokens) == ["<bos>", *"1+1="]
    assert start == 4 and tokens.dtype == np.int32


@pytest.mark.parametrize(
    "text, message",
    [
        ("12+12=", "'12[+]12=' is too long: 6 characters, at most 4 fit"),
        ("1+x=", "'x' of '1[+]x='"),
    ],
)
def test_a_prompt_that_cannot_be_is_one_clear_line(text, message):
    with pytest.raises(ValueError, match=message) as raised:
        encode_prompt(TOKENIZER, text, 5)
    assert len(str(raised.value).splitlines()) == 1


FITS = {"prompt_slots": 7, "max_actions": 3, "answer_actions": 3}  # "36+36=" and "72"
KEYS = {"answer_actions": "evaluate.max_actions"}


@pytest.mark.parametrize("limit", FITS)
def test_what_would_not_fit_is_said_before_training(limit):
    """Also an answer that could never be given: it would count as wrong for ever."""
    split = "test" if limit == "answer_actions" else "train"
    task = TASK._replace(splits={split: EXAMPLES})
    check_examples(task, TOKENIZER, **FITS)
    less, key = FITS[limit] - 1, KEYS.get(limit, limit)
    first = 10 if limit == "prompt_slots" else 5  # "10+10=", "10"
    said = (
        rf"^config.{key}={less} is too small: example {first} of {split}, .* needs {FITS[limit]}$"
    )
    with pytest.raises(ValueError, match=said):
        check_examples(task, TOKENIZER, **FITS | {limit: less})


def test_the_checksum_tells_whatever_decides_batches():
    """Ids are places in the alphabet: another one permutes them, whatever the examples are."""
    another = [*EXAMPLES[:-1], Example("36+36=", "73")]
    tasks = [
        TASK,
        TASK._replace(alphabet=TASK.alphabet + "z"),
        TASK._replace(confusable="13"),
        TASK._replace(splits={"train": another}),
        TASK._replace(splits={"test": EXAMPLES}),
    ]
    sums = [check_examples(task, CharTokenizer(task.alphabet), **FITS) for task in tasks]
    assert len(set(sums)) == len(tasks)
    assert sums[0] == check_examples(TASK._replace(name="again"), TOKENIZER, **FITS)
