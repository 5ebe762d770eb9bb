"""MAUVE (Pillutla et al. 2021): how near two sets of texts are, as a language model sees them.

By the package mauve-text, which is optional and under the GPL; nothing of it is copied here.
"""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from sequencematch.data.task import Example
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.likeness import load_optional
from sequencematch.evaluate.reference import Reference

SEEDS, SCALE = 5, 5.0  # of k-means; c of the divergence curve
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

    Features are hidden states of the last token of prompt and text. An empty text is its prompt.

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
    return {
        "mauve": float(np.mean(scores)),
        "mauve_deviation": float(np.std(scores, ddof=1)),
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


def reference_perplexity(
    reference: Reference, examples: Sequence[Example], answers: Sequence[Answer]
) -> dict:
    """Perplexity under another model of the answers' texts and of the real ones, and their ratio.

    exp(-Σ log p / Σ tokens) over all texts after their prompts. Near the real texts' is good; far below
    is dull, far above is odd. Of texts that its context cannot hold the beginning counts.
    """
    # The real ones first: of what is read, they are asked for again.
    real = _perplexity(reference, [(e.prompt, e.completion) for e in examples])
    made = _perplexity(reference, [(a.example.prompt, a.text) for a in answers])
    ratio = None if made is None or real is None else made / real
    return {
        "reference_perplexity": made,
        "reference_perplexity_real": real,
        "reference_perplexity_ratio": ratio,
    }


def _perplexity(reference: Reference, pairs: Sequence[tuple[str, str]]) -> float | None:
    read = reference.read(pairs)
    count = read.counts.sum()
    return float(np.exp(-read.log_likelihoods.sum() / count)) if count else None


# Name -> (another model, examples, an answer to each) -> figures.
MODEL_METRICS = {"mauve": mauve, "reference_perplexity": reference_perplexity}
