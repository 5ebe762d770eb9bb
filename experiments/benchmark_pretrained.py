"""Measures a real pretrained model, SmolLM2-135M, and compares it with torch.

    make smollm2
    python -m experiments.benchmark_pretrained

Prints how fast the directory is imported, what a step of training takes (full finetuning, LoRA with
r = 16 in all linear maps of the blocks, QLoRA alike) and its peak memory by the compiler's account. The
step: AdamW on the likelihood of 8 rows of 64 tokens at all of them, float32. Where torch, transformers
and PEFT are installed (the extra parity, on Python 3.11) each step is timed against theirs, in
processes that take turns, so that a machine that slows down for a while affects all. Ratios are medians
of the ratios of the turns. The floor of a step is timed too: XLA's products with the kernels of the
base alone, those of one pass forward and of one backward.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from flax import nnx

from sequencematch.cli.smollm2 import DIRECTORY
from sequencematch.core.types import Visibility
from sequencematch.models import lora
from sequencematch.models.config import Lora, TransformerConfig
from sequencematch.models.pretrained import configs, reader
from sequencematch.models.transformer import Transformer, parameter_shapes
from sequencematch.storage.provenance import hardware
from sequencematch.train.plan import peak_bytes

MODEL = flags.DEFINE_string("model", DIRECTORY, "The directory of a model.")
TURNS = flags.DEFINE_integer("turns", 12, "How often each step is timed.", lower_bound=1)
SIDE = flags.DEFINE_string(
    "side", None, "KIND/ours, KIND/torch or KIND/products: what a child process times."
)

ROWS, SLOTS, RATE = 8, 64, 1e-4
KINDS = {"full": Lora(), "lora": Lora(16, 16.0), "qlora": Lora(16, 16.0, base="nf4")}
IN_TORCH = ("full", "lora")

Step = Callable[[], float]  # takes a step of training; returns the loss


def read_base(folder: Path) -> tuple[TransformerConfig, nnx.State]:
    """Sizes and parameters of a model directory."""
    config = configs.read_config(folder)
    sizes = replace(configs.transformer_config(config), remat="products")
    weights = reader.open_weights(folder)
    return sizes, reader.read_params(weights, configs.family_of(config), parameter_shapes(sizes))


def tokens_of(vocab_size: int) -> np.ndarray:
    """int32[B, T], drawn once: a step takes as long whatever they are."""
    return np.random.default_rng(0).integers(0, vocab_size, (ROWS, SLOTS), dtype=np.int32)


def compile_ours(kind: str, folder: Path) -> tuple[jax.stages.Compiled, list]:
    """A step, (trained, moments, frozen, tokens) -> (trained, moments, loss), and its arguments."""
    base, params = read_base(folder)
    sizes = replace(base, lora=KINDS[kind])
    graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
    trained, frozen = params, nnx.State({})
    if sizes.lora.rank:
        adapters = jax.jit(lambda: lora.adapters_of(nnx.state(Transformer(sizes, nnx.Rngs(0)))))()
        both = lora.adapt(params, adapters, sizes.lora)
        trained, frozen = nnx.split_state(both, lambda p, _: lora.is_found(lora.ADAPTER, p), ...)
    optimizer, tokens = optax.adamw(RATE), jnp.asarray(tokens_of(base.vocab_size))
    time_of_slot = jnp.broadcast_to(jnp.arange(SLOTS), tokens.shape)
    visibility = Visibility(time_of_slot, time_of_slot, jnp.full(tokens.shape, SLOTS))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(trained, moments, frozen, tokens):
        def loss(trained):
            network = nnx.merge(graph, nnx.merge_state(trained, frozen))
            logits = network.logits(network.hidden(tokens, visibility)[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()

        value, gradients = jax.value_and_grad(loss)(trained)
        updates, moments = optimizer.update(gradients, moments, trained)
        return optax.apply_updates(trained, updates), moments, value

    arguments = [trained, optimizer.init(trained), frozen, tokens]
    return step.lower(*arguments).compile(), arguments


def our_step(kind: str, folder: Path) -> Step:
    """A step of this package's network."""
    compiled, (trained, moments, frozen, tokens) = compile_ours(kind, folder)

    def step() -> float:
        nonlocal trained, moments
        trained, moments, loss = compiled(trained, moments, frozen, tokens)
        return float(loss)

    return step


def torch_step(kind: str, folder: Path) -> Step:
    """The same step by torch and transformers, with adapters by PEFT."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if kind == "lora":
        import peft

        how = peft.LoraConfig(
            r=16, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, how)
    model.train()
    tokens = torch.tensor(tokens_of(model.config.vocab_size), dtype=torch.long)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)

    def step() -> float:
        optimizer.zero_grad()
        logits = model(tokens).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def products_step(kind: str, folder: Path) -> Step:
    """The products that every step has, x W and then y W^T for each kernel, a matrix of its own."""
    _, params = read_base(folder)
    stacks = [x for path, x in nnx.to_flat_state(params) if path[-1] == "kernel"]
    kernels = [kernel for stack in stacks for kernel in stack[...]]
    head = params["embedding"]["embedding"][...].T
    inputs = {n: jnp.zeros((ROWS * SLOTS, n)) for n in {x.shape[0] for x in (*kernels, head)}}

    @jax.jit
    def multiply(kernels: list, inputs: dict) -> dict:
        for kernel in kernels:
            x = inputs[kernel.shape[0]]
            inputs = inputs | {kernel.shape[0]: (x @ kernel) @ kernel.T}
        return inputs

    return lambda: float(multiply([*kernels, head], inputs)[head.shape[0]][0, 0])


def serve(side: str, folder: Path) -> None:
    """A child process: times a step for each line of its input, and prints the seconds."""
    kind, maker = side.split("/")
    step = {"ours": our_step, "torch": torch_step, "products": products_step}[maker](kind, folder)
    print(f"{step()} {step()}", flush=True)  # the first compiles; losses show that sides agree
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)


def take_turns(sides: list[str], folder: Path) -> tuple[list[str], np.ndarray]:
    """Runs each side in a process of its own; returns (first losses of each, seconds[side, turn])."""
    flags = [f"--model={folder}", "--side"]
    command = [sys.executable, "-m", "experiments.benchmark_pretrained", *flags]
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen([*command, side], stdin=pipe, stdout=pipe, text=True) for side in sides
    ]
    losses = [child.stdout.readline().strip() for child in children]
    seconds = np.empty((len(sides), TURNS.value))
    for turn in range(TURNS.value):
        for number, child in enumerate(children):
            child.stdin.write("\n")
            child.stdin.flush()
            seconds[number, turn] = float(child.stdout.readline())
    for child in children:
        child.communicate()  # the end of its input ends it
    return losses, seconds


def import_speed(folder: Path) -> float:
    """MB of files that are imported in a second, casts and transposes included."""
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    began = time.perf_counter()
    jax.block_until_ready(read_base(folder)[1])
    return size / 1e6 / (time.perf_counter() - began)


def main(argv: list[str]) -> int | None:
    """Measures and prints a table."""
    logging.set_verbosity(logging.ERROR)
    folder = Path(MODEL.value).expanduser()
    if not (folder / "config.json").is_file():
        print(f"{folder} holds no model: `make smollm2` makes one", file=sys.stderr)
        return 2
    if SIDE.value:
        return serve(SIDE.value, folder)
    read_base(folder)  # files are in memory from here on, and what converts them is compiled
    speeds = [import_speed(folder) for _ in range(3)]
    print(f"{hardware()}; {ROWS} rows of {SLOTS} tokens, float32, medians of {TURNS.value} turns")
    print(f"import {np.median(speeds):.0f} MB/s")
    has_torch = bool(find_spec("torch") and find_spec("transformers") and find_spec("peft"))
    for kind in KINDS:
        in_torch = has_torch and kind in IN_TORCH
        sides = [f"{kind}/{maker}" for maker in ("ours", "products", *["torch"] * in_torch)]
        losses, seconds = take_turns(sides, folder)
        peak = peak_bytes(compile_ours(kind, folder)[0])
        line = f"{kind:<6} {np.median(seconds[0]):.2f} s a step, peak {peak / 2**20:,.0f} MiB"
        for side, taken in zip(sides[1:], seconds[1:], strict=True):
            ratio = np.quantile(taken / seconds[0], (0.25, 0.5, 0.75))
            line += (
                f"; {side.split('/')[1]} {np.median(taken):.2f} s, {ratio[1]:.2f} x ours "
                f"[{ratio[0]:.2f}, {ratio[2]:.2f}]"
            )
        print(f"{line}; losses {' | '.join([losses[0], *losses[2:]])}", flush=True)
    return None


if __name__ == "__main__":
    app.run(main)
