"""Running text from scratch: a small model of characters (the second experiment of arXiv 2306.05426).

    make text
    python -m sequencematch.main --config=text[:METHOD]

METHOD is sequencematch (the default), mle, bc, unlikelihood, le_cam or iql_offline; everything else is
equal. The corpus is the docstrings of Python's own standard library, 1.8 MB of English that every
machine has; `--config.data.corpus="files:books/*.txt"` takes your own, docs/text.md says what else.
Windows of 128 characters, prompts of 32; 0.6 M parameters, 15,603 windows to learn from. Answers go on
until 128 characters survive.

The figures of the paper's table 2 are not to be expected of so small a model. A run (commit e8b25df,
seed 0, preparing the corpus included) took 6.6 minutes on 2 cores of an AMD EPYC, idle;
7.8 on 2 of an Intel Xeon with AVX-512 (commit c5361f7). Real text has a perplexity of 4.04 a character
[3.81, 4.28] with edits masked; sampled texts have an overlap of 62.2 % [60.0, 64.3] with it, greedy
ones 11.8 % [10.3, 13.3].

    python -m sequencematch.main --config=text:paper[,METHOD] --config.data.corpus=... \
        --config.model.path=DIR

The paper's settings for text: contexts of 1,024 tokens, η = .001, γ = .998, α = .01, QLoRA of rank 64
and alpha 16 on Llama2-7B, on openwebtext; name a corpus and a model directory. This was not run.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults


def get_config(variant: str = "sequencematch") -> ConfigDict:
    """The run of a variant: METHOD, "paper", or "paper,METHOD"."""
    head, _, method = variant.partition(",")
    paper = head == "paper"
    method = method if paper else variant
    config = defaults()
    config.task = "text"
    config.method = method or "sequencematch"
    config.data.update(train=0, validation=200, test=500, window=128, prompt=32)
    config.prompt_slots = config.max_actions = config.evaluate.max_actions = 0  # what they take
    config.noise.eta = 0.02
    config.objective.update(alpha=0.01, gamma=0.99)
    config.train.update(steps=750, bc_steps=500)
    config.train.batch_size, config.rollout.rows, config.rollout.batch_size = 32, 32, 32
    config.evaluate.update(
        examples=100,
        samples=1,
        stop_at=128,
        decodings=("greedy", "sampled", "unedited", "top_p=0.95"),
    )
    if paper:
        config.data.update(window=992, prompt=32)
        config.evaluate.stop_at = 992
        config.noise.eta, config.objective.gamma = 0.001, 0.998
        config.evaluate.rows = 16  # answers of 1,984 actions, at most
        config.model.update(path="meta-llama/Llama-2-7b-hf", remat="full", dtype="auto")
        config.model.update(lora_rank=64, lora_alpha=16.0, lora_base="nf4")
        config.optimizer.update(learning_rate=1e-4, warmup=50)
    return config
