"""How likely real text is to the model itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from flax import nnx

from sequencematch.data.episodes import clean_ids
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.intervals import exp_or_none, jackknife, jackknife_of_logs
from sequencematch.evaluate.values import Scorer


def perplexity(
    scorer: Scorer, params: nnx.State, tokenizer: Tokenizer, examples: Sequence[Example]
) -> dict[str, Any]:
    """exp(-Σ log π / N) over the N actions of all completions, each after its prompt.

    An `<eos>` counts where a completion has one, and the scorer takes it for an action. With a scorer
    whose edits are masked it is the perplexity of the text, which compares methods with edits and
    without; otherwise it is that of the expert's actions, and what a model spends on edits counts.

    Args:
      scorer: gives log π of actions.
      params: the model's.
      tokenizer: of the examples.
      examples: real texts; at least one.

    Returns:
      perplexity, None where it is too large for a number; nats_per_character, which compares models of
      different tokenizers; N, as actions; and the intervals of the first two, over texts.
    """
    legal = scorer.mdp.legal
    actions = [[i for i in clean_ids(tokenizer, x) if legal[i]] for x in examples]
    prompts = [example.prompt for example in examples]
    sums = np.array([x.log_probs.sum() for x in scorer.score(params, prompts, actions)], float)
    counts = np.array([*map(len, actions)])
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
