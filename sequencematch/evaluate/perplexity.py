"""How likely real text is to the model itself."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from sequencematch.data.episodes import clean_ids
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.intervals import exp_or_none, jackknife, jackknife_of_logs
from sequencematch.evaluate.values import Scorer, Scores


def score_texts(
    scorer: Scorer, params: nnx.State, tokenizer: Tokenizer, examples: Sequence[Example]
) -> Iterator[Scores]:
    """Yields the scores of real texts, after their prompts, in order.

    An `<eos>` is an action where a completion has one, and the scorer takes it for one.
    """
    legal = scorer.mdp.legal
    actions = [[i for i in clean_ids(tokenizer, x) if legal[i]] for x in examples]
    return scorer.score(params, [example.prompt for example in examples], actions)


def perplexity(
    examples: Sequence[Example], log_probs: Sequence[Float[np.ndarray, " N_i"]]
) -> dict[str, Any]:
    """exp(-Σ log π / N) over the N actions of all completions, each after its prompt.

    Of `Scores.text_log_probs` it is the perplexity of the text, which compares methods with edits and
    without. Of `Scores.log_probs` it is that of the expert's actions: what is spent on edits counts.

    Args:
      examples: real texts; at least one.
      log_probs: log π of the actions of each.

    Returns:
      perplexity, None where it is too large for a number; nats_per_character, which compares models of
      different tokenizers; N, as actions; and the intervals of the first two, over texts.
    """
    sums = np.array([x.sum() for x in log_probs], float)
    counts = np.array([*map(len, log_probs)])
    characters = np.array([len(example.completion) for example in examples])

    def measure(which: Sequence[int]) -> dict[str, float | None]:
        total, n = (x[[*which]].sum() for x in (sums, counts))
        return {"perplexity": exp_or_none(-total / max(n, 1))}

    def measure_nats(which: Sequence[int]) -> dict[str, float]:
        total, length = (x[[*which]].sum() for x in (sums, characters))
        return {"nats_per_character": float(-total / max(length, 1))}

    count = len(examples)
    intervals = jackknife_of_logs(measure, count) | jackknife(measure_nats, count)
    figures = measure(range(count)) | measure_nats(range(count))
    return figures | {"actions": int(counts.sum()), "intervals": intervals}
