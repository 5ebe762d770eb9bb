"""Data sets of the PyPI package reasoning-gym, with prompts and answers made short.

    pip install -e '.[gym]'
    python -m sequencematch.main --config=gym:NAME[,METHOD]

NAME is a key of SIZES below, METHOD sequencematch (the default), mle, bc or any other. Reproduces no
table: it is a start, with a network of 0.6 M parameters. The questions are generated once, 20,000 of
them in 20 seconds to some minutes; those of puzzle24 take a quarter of a second each, so there are
2,000. Short answers, such as chain_sum's, take as long as configs/arithmetic.py does.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults

# Name -> (prompt_slots, max_actions): the longest prompt with <bos>, and 99 % of the texts with noise.
SIZES = {
    "base_conversion": (18, 20),
    "basic_arithmetic": (40, 16),
    "chain_sum": (14, 12),
    "count_bits": (10, 10),
    "countdown": (14, 24),
    "fraction_simplification": (12, 16),
    "gcd": (12, 10),
    "lcm": (10, 14),
    "mini_sudoku": (21, 36),
    "number_sorting": (31, 48),
    "prime_factorization": (8, 40),
    "products": (10, 16),
    "puzzle24": (17, 32),
    "rotate_matrix": (17, 24),
    "simple_equations": (28, 12),
    "spell_backward": (12, 20),
    "spiral_matrix": (21, 30),
    "word_ladder": (9, 60),
}


def get_config(variant: str = "countdown") -> ConfigDict:
    """The run of a data set: NAME or "NAME,METHOD"."""
    name, _, method = variant.partition(",")
    config = defaults()
    config.task = f"gym/{name}"
    config.method = method or "sequencematch"
    # An unknown name keeps the defaults: the task refuses it, and says which there are.
    config.prompt_slots, config.max_actions = SIZES.get(
        name, (config.prompt_slots, config.max_actions)
    )
    config.evaluate.max_actions = 2 * config.max_actions
    if name == "puzzle24":
        config.data.update(train=2_000, validation=200, test=300)
    return config
