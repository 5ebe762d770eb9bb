"""Your own questions and answers, from a file of {"prompt": ..., "completion": ...} lines.

    python -m sequencematch.main --config=jsonl[:METHOD] --config.data.path=FILE

Reproduces no table: it is a start for your own data. Other layouts are read with data.fields:
"question" ({"question", "answer"}, as in GSM8K), "instruction" ({"instruction", "input", "output"}) and
"messages" (a chat, whose last turn of the assistant is the completion). FILE may be compressed
(.jsonl.gz). All of it is used: questions are split by prompt, all completions of a prompt are right
answers, and data.validation and data.test prompts are held out, or files of their own are asked
(data.validation_path, data.test_path).

The sizes are what the file takes: prompt_slots holds the longest prompt, max_actions the longest
completion with what noise adds to it, evaluate.max_actions what an answer may take with all that it
deletes. Where one long line makes them too large, set them, and data.long="drop" leaves out what needs
more. Minutes grow with prompt_slots + max_actions, which is 46 in configs/arithmetic.py, faster than
in proportion; the accuracy to expect depends on the file.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults


def get_config(method: str = "sequencematch") -> ConfigDict:
    """The run of one method, everything else equal."""
    config = defaults()
    config.task = "jsonl"
    config.method = method
    config.data.train = 0  # all of the file
    config.prompt_slots = config.max_actions = config.evaluate.max_actions = (
        0  # what the file takes
    )
    config.train.accumulate = 2  # 8 GiB for texts of 2,200 tokens
    return config
