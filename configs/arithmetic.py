"""Addition and subtraction in a base: the arithmetic task of SequenceMatch (arXiv 2306.05426).

    python -m sequencematch.main --config=arithmetic[:METHOD]

METHOD is sequencematch (the default), mle, bc, le_cam, iql_offline or unlikelihood; everything else
is equal: 5,000 questions in base 10 and a network of 0.6 M parameters, for a small machine. This is
the setting of the README's table, where learning rate and weight decay, alpha and gamma were chosen on
the validation questions (docs/results.md).

The default, seed 0 (`make arithmetic` on a fresh clone, installation included; commit bd1ef72), took
9.4 minutes on 2 cores of an Intel Xeon with AVX-512, and reached 88.6 % greedy [86.9 %, 90.2 %] and
76.3 % sampled [74.0 %, 78.4 %] on the 1,400 test questions. On 2 cores of an AMD EPYC it had taken 12.5
minutes (commit ba4d104 or the next).

    python -m sequencematch.main --config=arithmetic:paper[,METHOD]

The paper's data: 5,000 training and 200 test questions, in every base from 2 to 16. The paper
finetunes Llama2-7B by QLoRA; here the small network starts from random weights, so the paper's
accuracies are not to be expected. One run, seed 0, reached 31.5 % greedy and 32.0 % sampled on the 200
questions (95 % interval of the first: 25 to 38 %; commit 59aa3fd, 2 cores of an AMD EPYC), then with
alpha = .01, gamma = .9 and weight decay .1. It shared its cores with other work and took 115 minutes;
alone it takes fewer, but how many was not measured.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults


def get_config(variant: str = "sequencematch") -> ConfigDict:
    """The run of a variant: METHOD, "paper", or "paper,METHOD"."""
    head, _, method = variant.partition(",")
    data = head == "paper"
    method = method if data else variant
    config = defaults()
    config.task = "arithmetic"
    config.method = method or "sequencematch"
    config.data.update(train=5_000, validation=700, test=1_400)
    config.optimizer.weight_decay = 1.0
    if data:
        config.data.update(train=5_000, validation=200, test=200, bases=(), split="prompt")
        config.prompt_slots, config.max_actions = 43, 20
        config.evaluate.update(examples=200, max_actions=40)
    return config
