"""The paper's arithmetic on Llama2-7B, with its settings (SequenceMatch, arXiv 2306.05426).

    python -m sequencematch.main --config=llama_arithmetic[:METHOD] --config.model.path=DIR

DIR is Llama2-7B as Hugging Face has it, with tokenizer.json. Add or subtract in a base from 2 to 16
(add_or_sub_in_base of the mathematics dataset), 5,000 training and 200 test questions; alpha = 0.01,
gamma = 0.998, noise of 0.1 in the expert's texts; METHOD is sequencematch (the default), bc or mle. The
paper draws accuracy against noise, for random noise and wrong digits:

    ... --config.noise.kind=ground_truth --config.noise.eta=0.2 --config.max_actions=24

This trains all parameters, 7 billion of them, in float32. Without a directory, by --dry_run with
`--config.model.path= --config.model.preset=llama2-7b`, a step takes 173 GiB; with the model's own
vocabulary it takes more. So name the devices that share them, as in --config.mesh.fsdp=8.

    python -m sequencematch.main --config=llama_arithmetic:qlora[,METHOD] --config.model.path=DIR

The paper's QLoRA: kernels in 4 bits, adapters of rank 64 and alpha 16 on all linear maps of the blocks.

Neither was run to the end with that model. Any smaller one does: --config.model.path may be of SmolLM2.
"""

from ml_collections import ConfigDict

from sequencematch.setup.defaults import defaults


def get_config(variant: str = "sequencematch") -> ConfigDict:
    """The run of a variant: METHOD, "qlora", or "qlora,METHOD"."""
    head, _, method = variant.partition(",")
    qlora = head == "qlora"
    method = method if qlora else variant
    config = defaults()
    config.task = "arithmetic"
    config.method = method or "sequencematch"
    config.data.update(train=5_000, validation=200, test=200, bases=(), split="prompt")
    config.model.update(path="meta-llama/Llama-2-7b-hf", remat="full")
    config.objective.update(alpha=0.01, gamma=0.998)
    config.optimizer.update(learning_rate=1e-5, warmup=50)
    if qlora:
        config.model.update(dtype="auto", lora_rank=64, lora_alpha=16.0, lora_base="nf4")
        config.optimizer.learning_rate = 1e-4
    # A prompt is written in as many tokens as characters, at most: Llama 2 cuts numbers into digits.
    config.prompt_slots, config.max_actions = 48, 20
    config.train.update(steps=2_000, bc_steps=1_000, batch_size=32)
    config.rollout.update(rows=32, batch_size=32)
    config.evaluate.update(examples=200, max_actions=40, rows=100)
    return config
