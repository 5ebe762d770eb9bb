"""Noise of any kind on any clean text: the expert comes back to it, and teaches what it would do."""

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
wrongs = st.lists(st.sampled_from(LETTERS), min_size=2, unique=True)
# Above, a text that starts anew after each error is hardly ever whole.
chances = st.floats(0, 0.5)


@examples(60, 2000)
@given(pops, cleans, wrongs, chances, chances, st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_the_expert_comes_back_to_the_clean_text(edits, clean, wrong, eta, run, seed, limit):
    def noised(step):
        return add_noise(
            np.random.default_rng(seed),
            clean,
            eta=eta,
            run=run,
            wrong=wrong,
            mending=make_fix(edits),
            step=step,
            limit=limit,
        )

    taught = {step: noised(step) for step in NOISE_STEPS}
    executed, labels, imitate = taught["clean"]
    few = {edit: min(count, 10**3) for edit, count in edits.items()}
    states = oracles.texts([BOS], executed, few)
    last = states[-1][1:]
    # What was begun within the limit is mended beyond it, and nothing more is begun there.
    assert last == clean[: len(last)] and (last == clean or len(executed) >= limit)
    for (_, *text), action, label in zip(states, executed, labels, strict=False):
        assert EOS not in text
        assert label in (edits if text != clean[: len(text)] else [clean[len(text)]])
        assert action == label or action in wrong
    assert len(executed) == len(labels) and all(imitate)
    assert taught["imitate"] == (executed, executed, imitate)
    at_noise = [action != label for action, label in zip(executed, labels, strict=True)]
    assert taught["skip"] == (executed, labels, [not wrong for wrong in at_noise])
