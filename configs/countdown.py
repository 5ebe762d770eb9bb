"""Countdown in worked steps: make a target from three numbers, `4 10 18=62>18*4=72,72-10=62`.

    python -m sequencematch.main --config=countdown[:METHOD]

METHOD is sequencematch (the default), mle, bc or any other; everything else is equal: 20,000 problems,
none of whose numbers are those of a test problem, and a network of 0.6 M parameters. An answer is
easier to check than to find, and with RESET a model can start again. Expect of bc 71 % right when
greedy, 67 % when sampled (one seed, 500 test problems: docs/results.md). It trains on 2.4 times the
tokens of configs/arithmetic.py, so expect 2.4 times its minutes on the same hardware.

    python -m sequencematch.main --config=countdown:four[,METHOD]

The same with four numbers: answers are half as long again, and far fewer of the ways lead to one.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults

# Prompts with <bos>. Texts with their noise: 99 % of them have at most 64 and 120 actions, a RESET
# and the text again included. Answers: the longest, a RESET and the longest again, and some more.
SIZES = {
    3: {"prompt_slots": 14, "max_actions": 72, "answer": 48},
    4: {"prompt_slots": 17, "max_actions": 136, "answer": 80},
}


def get_config(variant: str = "sequencematch") -> ConfigDict:
    """The run of a variant: METHOD, "four", or "four,METHOD"."""
    four, _, method = variant.partition(",") if variant.startswith("four") else ("", "", variant)
    config = defaults()
    config.task = "countdown"
    config.method = method or "sequencematch"
    config.data.numbers = 4 if four else 3
    sizes = SIZES[config.data.numbers]
    config.prompt_slots, config.max_actions = sizes["prompt_slots"], sizes["max_actions"]
    config.evaluate.max_actions = sizes["answer"]
    config.edits = ("<reset>",)
    config.noise.eta = 0.03
    config.train.steps, config.train.bc_steps = 2_600, 1_800
    config.objective.gamma = 0.95  # 1 - 1/N for texts of N = 20 actions
    return config
