"""Noise of samples: one decision process with the noised data."""

from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from sequencematch.core import mdp
from sequencematch.data.noise import add_noise, make_fix
from sequencematch.rollout import sampler
from sequencematch.rollout.decoding import BLOCK, Decoding, choose, draw
from sequencematch.rollout.noise import RolloutNoise, disturb
from tests.goodness_of_fit import assert_counts_fit
from tests.rollout.samples import (
    ACTIONS,
    BKSPC,
    BOS,
    EOS,
    LETTERS,
    MDP,
    PAD,
    RESET,
    decision_mask,
    read_samples,
    score,
    to_numpy,
)

WRONG = np.isin(np.arange(12), LETTERS[:3])  # three of the six letters
OFTEN = RolloutNoise(eta=0.3, run=0.4, wrong=WRONG)


# One process.

TARGET = [LETTERS[0], LETTERS[4], EOS]


class Expert:
    """A network whose policy acts as the expert: the next token, or an edit of what is wrong.

    Its hidden states are (tokens written, whether they are right).
    """

    def __init__(self, edit):
        self.edit = edit

    def hidden(self, tokens, visibility):
        raise NotImplementedError

    def prefill(self, prompt, slots):
        hidden = jnp.tile(jnp.float32([0, 1]), (prompt.shape[0], slots, 1))
        return hidden, hidden

    def decode(self, token, depth, cache):
        row = jnp.arange(len(token))
        written, right = cache[row, depth - 1].T
        right *= token == next_of_target(written)
        hidden = jnp.stack([written + 1, right], axis=-1)
        return hidden, cache.at[row, depth].set(hidden, mode="drop")

    def logits(self, hidden):
        written, right = hidden.T
        action = jnp.where(right > 0, next_of_target(written), self.edit)
        return 1e6 * jax.nn.one_hot(action, 12)


def next_of_target(written):
    return jnp.take(jnp.array(TARGET), written.astype(int), mode="clip")


@pytest.mark.parametrize("edit", [BKSPC, RESET])
def test_samples_of_a_policy_that_is_the_expert_are_distributed_like_the_data(edit):
    """Executed actions and labels together, cut at the same limit."""
    n, limit, pops = 5_000, 7, {BKSPC: 1, RESET: mdp.EVERYTHING}[edit]
    process = mdp.make(12, eos=EOS, pad=PAD, never=[BOS], edits={edit: pops})
    prompts, start = jnp.full((n, 1), BOS), jnp.zeros(n, jnp.int32)

    @jax.jit
    def run(*prompts):
        how, key = sampler.Sampling(limit, noise=OFTEN), jax.random.key(0)
        return read_samples(process, sampler.sample(Expert(edit), process, *prompts, key, how))

    episodes, log_probs = run(prompts, start)
    assert not log_probs.any()  # the expert is certain
    drawn = Counter(
        (tuple(tokens[1 : end + 1]), tuple(labels[:end]))
        for tokens, labels, end in zip(
            episodes.tokens.tolist(), episodes.labels.tolist(), episodes.end.tolist(), strict=True
        )
    )
    rng, fix = np.random.default_rng(0), make_fix({edit: pops})
    how = dict(eta=0.3, run=0.4, wrong=[*LETTERS[:3]], fix=fix, step="clean", limit=limit)
    data = (add_noise(rng, TARGET, **how) for _ in range(n))
    made = Counter((tuple(d.executed[:limit]), tuple(d.labels[:limit])) for d in data)
    kinds = sorted({*drawn, *made}, key=lambda kind: -drawn[kind] - made[kind])
    common = [kind for kind in kinds if drawn[kind] + made[kind] >= 20]
    table = [[each[kind] for kind in common] for each in (drawn, made)]
    rest = [n - sum(counts) for counts in table]
    table = np.column_stack([table, rest])
    assert table.shape[1] > 30 and min(rest) > 20
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


# A policy of its own.


@pytest.fixture(scope="module")
def noised_samples(model, prompts):
    return sample_with_noise(model, prompts, OFTEN)


def sample_with_noise(model, prompts, noise):
    how, key = sampler.Sampling(ACTIONS, noise=noise), jax.random.key(0)

    @nnx.jit
    def run(model, *prompts):
        return read_samples(MDP, sampler.sample(model, MDP, *prompts, key, how))

    return to_numpy(run(model, *prompts))


def test_labels_are_the_chosen_actions_and_log_probabilities_are_theirs(model, noised_samples):
    episodes, log_probs = noised_samples
    log_pi = jax.nn.log_softmax(score(model, episodes))
    scored = np.take_along_axis(np.asarray(log_pi), episodes.labels[..., None], axis=-1)[..., 0]
    taken = decision_mask(episodes)
    np.testing.assert_allclose(log_probs[taken], scored[taken], atol=1e-4)
    assert MDP.legal[episodes.labels].all() and not episodes.imitate.any()


def test_pushes_go_wrong_and_edits_only_after_a_wrong_token(noised_samples):
    episodes, _ = noised_samples
    taken, executed = decision_mask(episodes), np.roll(episodes.tokens, -1, axis=1)
    wrong = taken & (executed != episodes.labels)
    pushes, after = MDP.pops[episodes.labels] == 0, np.roll(wrong, 1, axis=1)
    assert WRONG[executed[wrong]].all()
    assert not (wrong & ~pushes & ~after).any()
    for expected, where in (
        (0.3, pushes & ~after),
        (0.4, ~pushes & after),
        (1 - 0.7 * 0.6, pushes & after),
    ):
        found, n = (wrong & where).sum(), (taken & where).sum()
        assert n > 10 and scipy.stats.binomtest(int(found), int(n), expected).pvalue > 1e-3


def test_without_probability_nothing_changes(model, prompts, samples):
    never = RolloutNoise(eta=0.0, run=0.9, wrong=WRONG)
    jax.tree.map(np.testing.assert_array_equal, sample_with_noise(model, prompts, never), samples)


def test_wrong_tokens_of_the_policy_are_drawn_from_it():
    n, chosen = 4_000, LETTERS[1]
    logits = np.linspace(0, 2, 12)
    always = RolloutNoise(eta=1.0, run=0.0, wrong=None)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(n))
    args = np.tile(np.float32(logits), (n, 1)), np.full(n, chosen), np.zeros(n, bool), keys
    drawn = np.asarray(jax.jit(partial(disturb, always, MDP))(*args))
    others = [i for i in np.flatnonzero(MDP.ordinary) if i != chosen]
    assert_counts_fit(
        np.bincount(drawn, minlength=12)[others],
        np.exp(logits)[others] / np.exp(logits)[others].sum(),
    )


@pytest.mark.parametrize("decoding", [None, Decoding(threshold=None, temperature=1.0)])
def test_whether_an_action_goes_wrong_does_not_depend_on_which_it_is(decoding):
    """Nor where V is so large that an action is drawn in two steps, of a block and within it."""
    many = mdp.make(4 * BLOCK, eos=1, pad=2, never=[2], edits={})
    likely = [0, BLOCK, BLOCK + 1, 4 * BLOCK - 1]
    logits = jnp.full(4 * BLOCK, -jnp.inf).at[jnp.asarray(likely)].set(0.0)
    noise = RolloutNoise(0.3, 0.0, np.isin(np.arange(4 * BLOCK), [5, 6]))

    @jax.jit
    @jax.vmap
    def act(key):
        banned = jnp.zeros(4 * BLOCK, bool)
        chosen = choose(decoding, many, logits, banned, key) if decoding else draw(key, logits)
        row = (x[None] for x in (logits, chosen, jnp.zeros((), bool), key))
        return chosen, disturb(noise, many, *row)[0]

    chosen, done = map(np.asarray, act(jax.random.split(jax.random.key(0), 8_000)))
    cells = Counter((likely.index(a), bool(a != b)) for a, b in zip(chosen, done, strict=True))
    table = [cells[i, wrong] for i in range(4) for wrong in (False, True)]
    assert_counts_fit(table, [0.25 * p for _ in likely for p in (0.7, 0.3)])
