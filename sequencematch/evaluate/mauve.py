"""MAUVE (Pillutla et al. 2021): how near two sets of texts are, as a language model sees them.

By the package mauve-text, which is optional and under the GPL; nothing of it is copied here.
"""

from collections.abc import Sequence
from math import sqrt
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Float

from sequencematch.data.task import Example
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.intervals import exp_or_none, jackknife_of_logs
from sequencematch.evaluate.likeness import load_optional
from sequencematch.evaluate.reference import Reading, Reference

SEEDS, SCALE = 5, 5.0  # of k-means; c of the divergence curve
POINTS = 25  # of the divergence curve, as mauve-text has it, without its ends
BUCKET = 20  # texts of each set in a bucket: k-means wants 39 of both together


def check_mauve(texts: int) -> ModuleType:
    """The package that computes MAUVE.

    Raises:
      ValueError: there are too few texts, or it is not installed.
    """
    if texts < 2 * BUCKET:
        raise ValueError(
            f"mauve needs {2 * BUCKET} texts or more, for two buckets: there are {texts}"
        )
    return load_optional("mauve", "mauve")


def mauve(reference: Reference, examples: Sequence[Example], answers: Sequence[Answer]) -> dict:
    """The mean of MAUVE over five seeds of k-means, its standard deviation, and what it was made with.

    Features are hidden states of the last token of prompt and text. An empty text is its prompt. The
    interval is over texts and over seeds of k-means: 1.96 √(σ² + s²/5), σ of `text_deviation`, s that
    of the seeds.

    Args:
      reference: the featuriser.
      examples: their completions are the real texts.
      answers: theirs are those to compare.

    Raises:
      ValueError: there are too few texts, or mauve-text is not installed.
    """
    library, n = check_mauve(len(answers)), len(answers)
    real = reference.read([(e.prompt, e.completion) for e in examples])
    made = reference.read([(a.example.prompt, a.text) for a in answers])
    how = dict(num_buckets=n // BUCKET, mauve_scaling_factor=SCALE, verbose=False)
    both = real.features, made.features
    found = [library.compute_mauve(*both, seed=seed, **how) for seed in range(SEEDS)]
    scores = [float(each.mauve) for each in found]
    mean, deviation = float(np.mean(scores)), float(np.std(scores, ddof=1))
    of_texts = [text_deviation(each.p_hist, each.q_hist, n) for each in found]
    reach = 1.959964 * sqrt(np.mean(np.square(of_texts)) + deviation**2 / SEEDS)
    return {
        "mauve": mean,
        "mauve_deviation": deviation,
        "intervals": {"mauve": (max(mean - reach, 0.0), min(mean + reach, 1.0))},
        "mauve_curve": np.asarray(found[0].divergence_curve).tolist(),
        "mauve_made_with": {
            "texts": n,
            "empty": sum(not answer.text.strip() for answer in answers),
            "cut": int(real.cut.sum() + made.cut.sum()),
            "buckets": n // BUCKET,
            "scale": SCALE,
            "seeds": SEEDS,
            "featuriser": reference.path.name,
            "checksum": reference.checksum,
        },
    }


def curve_area(p: Float[jax.Array, " K"], q: Float[jax.Array, " K"]) -> Float[jax.Array, ""]:
    """MAUVE of two distributions over K buckets: the area under their divergence curve.

    The curve is (e^{-c KL(q, r)}, e^{-c KL(p, r)}), r = λ p + (1 - λ) q, 0 < λ < 1, and ends at (1, 0)
    and (0, 1); by trapezoids.
    """
    mixture = jnp.linspace(1e-6, 1 - 1e-6, POINTS)[:, None]
    r = mixture * p + (1 - mixture) * q

    def closeness(a: jax.Array) -> jax.Array:
        return jnp.exp(-SCALE * jnp.sum(xlogy(a, a) - xlogy(a, jnp.where(a > 0, r, 1)), axis=1))

    x = jnp.concatenate([jnp.ones(1), closeness(q), jnp.zeros(1)])
    y = jnp.concatenate([jnp.zeros(1), closeness(p), jnp.ones(1)])
    return jnp.sum((x[:-1] - x[1:]) * (y[:-1] + y[1:])) / 2


_slopes = jax.jit(jax.grad(curve_area, argnums=(0, 1)))


def text_deviation(p: np.ndarray, q: np.ndarray, n: int) -> float:
    """Standard error of MAUVE over texts, for the buckets as they are, by the delta method.

    σ² = (Var_p[∂/∂p] + Var_q[∂/∂q]) / n, of two sets of n texts in shares p and q. As if they were
    drawn apart: where a text and the real one of its prompt fall into one bucket, σ is less.
    """
    slopes = _slopes(jnp.asarray(p, jnp.float32), jnp.asarray(q, jnp.float32))
    variance = 0.0
    for share, slope in zip((p, q), slopes, strict=True):
        slope = np.where(share > 0, np.asarray(slope, float), 0)  # infinite where no text is
        variance += np.sum(share * (slope - np.sum(share * slope)) ** 2)
    return sqrt(variance / n)


def reference_perplexity(
    reference: Reference, examples: Sequence[Example], answers: Sequence[Answer]
) -> dict:
    """Perplexity under another model of the answers' texts and of the real ones, and what made it.

    exp(-Σ log p / Σ tokens) over all texts after their prompts, and the ratio. Near the real texts' is
    good; far below is dull, far above is odd. Of texts that its context cannot hold the beginning
    counts. Tokens are that model's: misspelt words are many, each likely after the one before. So
    there is -Σ log p / Σ characters, too, where each text has all of its tokens' probabilities. The
    intervals are over texts, each left out with its real one.
    """
    # The real ones first: of what is read, they are asked for again.
    real = reference.read([(e.prompt, e.completion) for e in examples])
    made = reference.read([(a.example.prompt, a.text) for a in answers])
    texts = ([a.text for a in answers], [e.completion for e in examples])
    characters = [np.array([*map(len, each)]) for each in texts]
    is_whole = all(reference.tells_first(e.prompt) for e in examples)
    is_whole &= not (real.cut.any() or made.cut.any())

    def measure(which: Sequence[int]) -> dict[str, float | None]:
        each = [_perplexity(reading, [*which]) for reading in (made, real)]
        ratio = None if None in each else each[0] / each[1]
        names = ("", "_real", "_ratio")
        found = {f"reference_perplexity{x}": v for x, v in zip(names, (*each, ratio), strict=True)}
        if is_whole:
            for name, reading, lengths in zip(names[:2], (made, real), characters, strict=True):
                nats = _nats_per_character(reading, lengths, [*which])
                found[f"reference_nats_per_character{name}"] = nats
        return found

    whole = range(len(answers))
    made_with = {"texts": len(whole), "cut": int(real.cut.sum() + made.cut.sum())}
    made_with |= {"model": reference.path.name, "checksum": reference.checksum}
    intervals = jackknife_of_logs(measure, len(whole))
    return measure(whole) | {"intervals": intervals, "reference_perplexity_made_with": made_with}


def _perplexity(reading: Reading, which: list[int]) -> float | None:
    count = reading.counts[which].sum()
    return exp_or_none(-reading.log_likelihoods[which].sum() / count) if count else None


def _nats_per_character(reading: Reading, characters: np.ndarray, which: list[int]) -> float | None:
    count = characters[which].sum()
    return float(-reading.log_likelihoods[which].sum() / count) if count else None


# Name -> (another model, examples, an answer to each) -> figures, and their "intervals" of 95 %.
MODEL_METRICS = {"mauve": mauve, "reference_perplexity": reference_perplexity}
