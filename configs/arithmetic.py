"""Addition and subtraction of DeepMind's mathematics data set (SequenceMatch, section 4.1).

    python -m sequencematch.main --config=configs/arithmetic.py[:mle|:bc|:sequencematch]

The paper has 5,000 training and 200 test questions in bases 2 to 16:
--config.data.train=5000 --config.data.test=200 --config.data.bases="()"
Here the default is 20,000 questions in base 10, for a small model on a small machine.
"""

from ml_collections import ConfigDict

from sequencematch import config as configuration


def get_config(method: str = "sequencematch") -> ConfigDict:
    """The run of one method, everything else equal."""
    config = configuration.defaults()
    config.task = "arithmetic"
    config.method = method
    return config
