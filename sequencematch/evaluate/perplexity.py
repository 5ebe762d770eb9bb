"""How likely real text is to the model itself."""

import math
from collections.abc import Sequence

from flax import nnx

from sequencematch.data.episodes import clean_ids
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import Tokenizer
from sequencematch.evaluate.values import Scorer


def perplexity(
    scorer: Scorer, params: nnx.State, tokenizer: Tokenizer, examples: Sequence[Example]
) -> dict[str, float | int]:
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
      perplexity; nats_per_character, which compares models of different tokenizers; and N.
    """
    legal = scorer.mdp.legal
    actions = [[i for i in clean_ids(tokenizer, x) if legal[i]] for x in examples]
    prompts = [example.prompt for example in examples]
    total = sum(float(x.log_probs.sum()) for x in scorer.score(params, prompts, actions))
    count, characters = sum(map(len, actions)), sum(len(x.completion) for x in examples)
    return {
        "perplexity": math.exp(-total / count),
        "nats_per_character": -total / max(characters, 1),
        "actions": count,
    }
