"""How much memory a run takes, in closed form, and whether it is there. Bytes, on each device.

Symbols: B rows, T slots, L layers, D model, H heads, K key heads, N width of a head, F feed-forward,
V vocabulary, a bytes of an activation. The mesh's model axis splits the matrices (`train/mesh.py`) and,
with them, what is computed; its data axis splits batches.
"""

from pathlib import Path
from typing import NamedTuple

import psutil
from ml_collections import ConfigDict

from sequencematch.config import defaults, flat, transformer
from sequencematch.core.masked import CHUNK
from sequencematch.models.config import TransformerConfig
from sequencematch.run import make_objective
from sequencematch.train import mesh as meshes
from sequencematch.train.methods import METHODS

FLOAT, BOOL = 4, 1
ACTIVATION = {"float32": 4, "bfloat16": 2}
NETWORK = ("model.d_model", "model.layers", "model.d_ff")
SLOTS = ("prompt_slots", "max_actions")


class Part(NamedTuple):
    """Something that takes memory.

    Attributes:
      name: what it is.
      size: bytes on each device.
      keys: those of the configuration that it grows with.
    """

    name: str
    size: int
    keys: tuple[str, ...]


class Estimate(NamedTuple):
    """What a run takes on each device.

    Attributes:
      held: what is there all the time.
      passing: what is there at times, one after the other.
    """

    held: tuple[Part, ...]
    passing: tuple[Part, ...]

    @property
    def peak(self) -> int:
        """Bytes when most is there."""
        return sum(part.size for part in self.held) + max(part.size for part in self.passing)

    @property
    def largest(self) -> Part:
        """The part that takes most."""
        return max(self.held + self.passing, key=lambda part: part.size)


def training(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What a training run takes, its looks at the validation set and its last verdict included.

    Args:
      config: a valid one.
      vocab_size: V; before the task is open, any lower bound.
    """
    c, network, samples = config, transformer(config, vocab_size), draws_samples(config)
    P, T, model = weights(network, c.mesh.model), c.prompt_slots + c.max_actions, c.mesh.model
    # Every device has the whole buffer, draws all of its rows and takes them through the network.
    rows = c.train.batch_size // c.mesh.data + samples * c.rollout.batch_size
    batches = ("train.batch_size", *["rollout.batch_size"] * samples)
    step = P + (copied(network) + kept(network, rows, T)) // model
    moments = Part("the optimiser's moments", 2 * P, NETWORK)
    learning = Part("gradients and activations", step, (*batches, *SLOTS, *NETWORK))
    drawing, verdict = rollouts(c, network), evaluation(c, vocab_size)
    return Estimate(
        (*verdict.held, moments, *drawing.held), (learning, *drawing.passing, *verdict.passing)
    )


def rollouts(config: ConfigDict, network: TransformerConfig) -> Estimate:
    """What the policy's own episodes take, where a run trains on them."""
    c, rows = config, config.rollout.rows // config.mesh.data
    if not draws_samples(c):
        return Estimate((), ())
    buffer = replay(c.rollout.capacity, c.prompt_slots + c.max_actions)
    drawing = sampling(network, rows, c.prompt_slots, c.max_actions) // c.mesh.model
    return Estimate(
        held=(Part("the replay buffer", buffer, ("rollout.capacity", *SLOTS)),),
        passing=(Part("drawing samples", drawing, ("rollout.rows", *SLOTS, *NETWORK)),),
    )


def evaluation(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What answering and scoring test questions takes; rows are not spread over the data axis."""
    c, network = config, transformer(config, vocab_size)
    rows, prompt, actions = c.evaluate.rows, c.prompt_slots, c.evaluate.max_actions
    answering = sampling(network, rows, prompt, actions)
    size = max(answering, scoring(network, rows, prompt + actions)) // c.mesh.model
    keys = ("evaluate.rows", "prompt_slots", "evaluate.max_actions", *NETWORK)
    return Estimate(
        held=(Part("the parameters", weights(network, c.mesh.model), NETWORK),),
        passing=(Part("answering questions", size, keys),),
    )


def draws_samples(config: ConfigDict) -> bool:
    """Whether a run trains on the policy's own episodes."""
    return METHODS[config.method].matches and make_objective(config).needs_samples


def weights(network: TransformerConfig, model: int) -> int:
    """The network's parameters, float32: matrices are split over the model axis, gains are not."""
    return FLOAT * (network.matrices // model + network.gains)


def copied(network: TransformerConfig) -> int:
    """The matrices in the activations' dtype, if that is not their own."""
    a = ACTIVATION[network.dtype]
    return 0 if a == FLOAT else a * network.matrices


def replay(capacity: int, slots: int) -> int:
    """The buffer: two integers and a truth a slot, three integers an episode."""
    return capacity * (slots * (2 * FLOAT + BOOL) + 3 * FLOAT)


def kept(network: TransformerConfig, rows: int, slots: int) -> int:
    """What the backward pass needs of the forward pass, before the compiler saves any of it.

    Of each slot a layer keeps 6 F of SwiGLU, 7 D and 2 K N of what goes into products, in the
    activations' dtype; 6 D of its norms, the angles of two rotations (2 N) and H T scores, twice, in
    float32; H T of their softmax and of their mask. The head keeps its logits, a chunk at a time.
    """
    n, a = network, ACTIVATION[network.dtype]
    layer = a * (6 * n.d_ff + 7 * n.d_model + 2 * n.kv_heads * n.head_dim)
    layer += FLOAT * (6 * n.d_model + 2 * n.head_dim)
    layer += n.heads * slots * (2 * FLOAT + a + BOOL)
    around = 4 * FLOAT * n.d_model
    logits = (2 * FLOAT + BOOL) * n.vocab_size * rows * min(slots, CHUNK)
    return rows * slots * (n.layers * layer + around) + logits


def cache(network: TransformerConfig, rows: int, slots: int) -> int:
    """Keys, values and final hidden states of every slot of the sampler's stack."""
    n, a = network, ACTIVATION[network.dtype]
    return a * rows * slots * (2 * n.layers * n.kv_heads * n.head_dim + n.d_model)


def forward(network: TransformerConfig, rows: int, slots: int) -> int:
    """The working space of a forward pass: of one layer at a time, the larger of its two halves.

    The residual stream in and out and twice between; then scores, masked scores and softmax, or the
    three wide arrays of SwiGLU.
    """
    n, a = network, ACTIVATION[network.dtype]
    widest = max(3 * a * n.d_ff, 3 * FLOAT * n.heads * slots)
    return rows * slots * (4 * a * n.d_model + widest)


def sampling(network: TransformerConfig, rows: int, prompt: int, actions: int) -> int:
    """Reading prompts and completing them."""
    logits = 2 * FLOAT * rows * network.vocab_size
    return cache(network, rows, prompt + actions) + forward(network, rows, prompt) + logits


def scoring(network: TransformerConfig, rows: int, slots: int) -> int:
    """Values of whole episodes, forward only."""
    return forward(network, rows, slots) + 2 * FLOAT * rows * min(slots, CHUNK) * network.vocab_size


def available(devices: int) -> int:
    """Bytes that each of so many devices has: an accelerator its own, CPUs a share of the machine's."""
    limits = meshes.devices()[0].memory_stats()
    return limits["bytes_limit"] if limits else free() // devices


def free(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this machine has left, or the container that this process runs in."""
    there = psutil.virtual_memory().available
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        cached = int(parts["active_file"]) + int(parts["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, or one without a limit
        return there
    return min(there, limit - used + cached)  # the kernel gives up what it keeps of files


def check(config: ConfigDict, estimate: Estimate) -> None:
    """Whether what a run takes is there.

    Raises:
      ValueError: it is not; names what takes most, and what to make smaller.
    """
    there, largest = available(config.mesh.data * config.mesh.model), estimate.largest
    if estimate.peak > there:
        raise ValueError(
            f"the run needs about {readable(estimate.peak)} of memory on each device and has "
            f"{readable(there)}: {readable(largest.size)} of it for {largest.name}; lower "
            + " or ".join(f"config.{key}={flat(config)[key]}" for key in blamed(config, largest))
        )


def blamed(config: ConfigDict, part: Part) -> list[str]:
    """The three of a part's keys that are furthest above their defaults."""
    usual, given = flat(defaults()), flat(config)
    return sorted(part.keys, key=lambda key: -given[key] / usual[key])[:3]


def readable(size: float) -> str:
    """A number of bytes for people."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:,.1f} {units[0]}"
