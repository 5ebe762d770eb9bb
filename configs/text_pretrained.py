"""Running text on a pretrained model, by LoRA (the second experiment of arXiv 2306.05426, small).

    make smollm2
    python -m sequencematch.main --config=text_pretrained[:METHOD]

METHOD is sequencematch (the default), mle, bc, or any other; everything else is equal. The model is
SmolLM2-135M-Instruct; `--config.model.path=DIR` takes another directory. Adapters of rank 64 and alpha
16 as in the paper, on all linear maps of the blocks, and the rows of the edits. The corpus is the
docstrings of Python's own standard library in the model's tokens: windows of 128 after prompts of 32.
Answers go on until 128 tokens survive.

The paper finetunes Llama2-7B on openwebtext, with windows of 1,024: configs/text.py has those settings.
Its table 2 is not to be expected here: the model has seen such text before, and learns for minutes.
Meant for 2 cores and 8 GB. With these docstrings it was not run to the end; with WikiText-2 methods are
compared in docs/results.md, by runs of hours of one core, most of them spent on 1,000 texts and more.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults

SMOLLM2 = "~/.cache/sequencematch/smollm2-135m-instruct"  # where `make smollm2` leaves it


def get_config(method: str = "sequencematch") -> ConfigDict:
    """The run of one method, everything else equal."""
    config = defaults()
    config.task = "text"
    config.method = method
    config.data.update(train=0, validation=50, test=100, window=128, prompt=32)
    config.prompt_slots = config.max_actions = config.evaluate.max_actions = 0  # what they take
    config.model.update(path=SMOLLM2, remat="products", lora_rank=64, lora_alpha=16.0)
    config.model.dtype = "auto"  # bfloat16 on accelerators
    config.noise.eta = 0.02
    config.objective.update(alpha=0.01, gamma=0.99)
    config.optimizer.update(learning_rate=2e-4, warmup=20)
    config.train.update(steps=300, bc_steps=200, batch_size=8)
    config.rollout.update(rows=8, every=20, capacity=64, batch_size=8)
    config.evaluate.update(every=100, examples=20, rows=20, samples=1, stop_at=128, traces=20)
    config.checkpoint.update(every=100, keep=1)
    return config
