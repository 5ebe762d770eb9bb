"""A pretrained language model, finetuned on any task.

    make smollm2
    python -m sequencematch.main --config=pretrained[:METHOD]

The default: addition and subtraction in base 10 on SmolLM2-135M-Instruct, full finetuning, METHOD
sequencematch (or mle, bc, le_cam, ...). The commonest use is your own file and model:

    python -m sequencematch.main --config=pretrained --config.task=jsonl --config.data.path=FILE \\
      --config.data.train=0 --config.model.path=DIR

DIR is a directory as Hugging Face has it: config.json, *.safetensors, tokenizer.json. FILE has lines
{"prompt": ..., "completion": ...}, all of which are taken; set data.validation and data.test to what it
can spare. Prompts and answers have room for the longest of the data.

Reproduces no table: the paper finetunes Llama2-7B by QLoRA (configs/llama_arithmetic.py). A step of 8
rows of 64 slots takes 3.2 to 3.6 s on 2 cores in float32 (docs/finetuning.md), one of matching has
twice the rows; so a run takes two hours or more there, with 4 GiB of memory. A whole run has not been
made. One with train.steps=60 and train.bc_steps=40 (seed 0, 2,000 questions, commit f3147b8) ended
after 15 minutes on 2 cores of an AMD EPYC, which it shared: 6 of 48 test questions right, greedy.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults

SMOLLM2 = "~/.cache/sequencematch/smollm2-135m-instruct"  # where `make smollm2` leaves it


def get_config(method: str = "sequencematch") -> ConfigDict:
    """The run of one method, everything else equal."""
    config = defaults()
    config.task = "arithmetic"
    config.method = method
    config.prompt_slots = config.max_actions = config.evaluate.max_actions = 0  # what the data take
    config.model.update(path=SMOLLM2, remat="products", dtype="auto")  # bfloat16 on accelerators
    config.optimizer.update(learning_rate=1e-4, warmup=50)
    config.train.update(steps=1_500, bc_steps=1_000, batch_size=8)
    config.rollout.update(rows=16, every=20, capacity=128, batch_size=8)
    config.evaluate.update(every=250, rows=50)
    config.checkpoint.update(every=250, keep=1)
    return config
