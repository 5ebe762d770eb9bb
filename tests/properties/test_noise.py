"""Noise of any kind on any clean text: the expert returns to the text, and its labels say how."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.core.mdp import EVERYTHING
from sequencematch.data.noise import NOISE_STEPS, add_noise, make_fix
from tests import oracles
from tests.properties.given import examples

BOS, EOS, BKSPC, *LETTERS = range(1, 9)
RESET, FURTHER = 9, (10, 11, 12)
pops = st.just({RESET: EVERYTHING}) | st.dictionaries(
    st.sampled_from(FURTHER), st.integers(2, 6), max_size=3
).map(lambda further: {BKSPC: 1} | further)
cleans = st.lists(st.sampled_from(LETTERS), max_size=12).map(lambda text: [*text, EOS])
wrongs = st.lists(st.sampled_from(LETTERS), min_size=2, unique=True).map(sorted)
# With higher ones, a text that restarts after each error is hardly ever complete.
chances = st.floats(0, 0.5)


@examples(60, 2000)
@given(pops, cleans, wrongs, chances, chances, st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_expert_returns_to_the_clean_text(edits, clean, wrong, eta, run, seed, limit):
    def add_any_noise(step):
        return add_noise(
            np.random.default_rng(seed),
            clean,
            eta=eta,
            run=run,
            wrong=wrong,
            fix=make_fix(edits),
            step=step,
            limit=limit,
        )

    by_step = {step: add_any_noise(step) for step in NOISE_STEPS}
    executed, labels, imitate = by_step["clean"]
    counts = {
        edit: min(count, 10**3) for edit, count in edits.items()
    }  # the oracle pops one by one
    states = oracles.texts([BOS], executed, counts)
    last = states[-1][1:]
    # Noise that began within the limit is fixed beyond it, and nothing else is begun there.
    assert last == clean[: len(last)] and (last == clean or len(executed) >= limit)
    for (_, *text), action, label in zip(states, executed, labels, strict=False):
        assert EOS not in text
        assert label in (edits if text != clean[: len(text)] else [clean[len(text)]])
        assert action == label or action in wrong
    assert len(executed) == len(labels) and all(imitate)
    assert by_step["imitate"] == (executed, executed, imitate)
    at_noise = [action != label for action, label in zip(executed, labels, strict=True)]
    assert by_step["skip"] == (executed, labels, [not wrong for wrong in at_noise])
