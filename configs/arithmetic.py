"""Addition and subtraction of DeepMind's mathematics data set (SequenceMatch's arithmetic task).

    python -m sequencematch.main --config=configs/arithmetic.py[:METHOD]

METHOD is a key of `train.methods.METHODS`: sequencematch, mle, bc, le_cam, iql_offline, unlikelihood.
The default is 20,000 questions in base 10 and a network of 0.6 M parameters, for a small machine; what
to expect of it stands in the README, with hardware and time. The paper's own sizes and bases are

    --config.data.train=5000 --config.data.test=200 --config.data.bases="()"
    --config.prompt_slots=43 --config.max_actions=20
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults


def get_config(method: str = "sequencematch") -> ConfigDict:
    """The run of one method, everything else equal."""
    config = defaults()
    config.task = "arithmetic"
    config.method = method
    return config
