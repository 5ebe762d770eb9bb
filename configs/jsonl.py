"""Your own questions and answers, from a file of {"prompt": ..., "completion": ...} lines.

    python -m sequencematch.main --config=jsonl[:METHOD] --config.data.path=FILE

Reproduces no table: it is a start for your own data. Questions are split by prompt. Set
data.validation and data.test to what the file can spare, prompt_slots and max_actions to its longest
prompt and answer, and evaluate.max_actions to what an answer may take with all that it deletes (an
error says what they need). An example has 128 slots below, against 46 in configs/arithmetic.py, so
expect some three times its minutes on the same hardware; the accuracy to expect depends on the file.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults


def get_config(method: str = "sequencematch") -> ConfigDict:
    """The run of one method, everything else equal."""
    config = defaults()
    config.task = "jsonl"
    config.method = method
    config.prompt_slots = 96
    config.max_actions = 32
    config.evaluate.max_actions = 64
    return config
