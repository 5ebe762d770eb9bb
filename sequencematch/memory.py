"""How much memory a run takes, in closed form, and whether it is there. Bytes, on each device.

Symbols: B rows, T slots, L layers, D model, H heads, K key heads, N width of a head, F feed-forward,
V vocabulary, a bytes of an activation. The mesh's model axis splits the matrices (`train/mesh.py`) and,
with them, what is computed; its data axis splits batches.
"""

import contextlib
from collections.abc import Iterator
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
# Controller of Linux's control groups -> its folder, and the files of its limit and use: version 2, 1.
GROUPS = {"": ("", "max", "current"), "memory": ("memory", "limit_in_bytes", "usage_in_bytes")}


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
      written: this device's share of a checkpoint that is written meanwhile.
    """

    held: tuple[Part, ...]
    passing: tuple[Part, ...]
    written: int = 0

    @property
    def peak(self) -> int:
        """Bytes when most is there."""
        held = sum(part.size for part in self.held)
        return held + max(part.size for part in self.passing) + self.written

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
    # Every device draws all rows of the buffer and takes them through the network.
    rows = c.train.batch_size // c.mesh.data + samples * c.rollout.batch_size
    batches = ("train.batch_size", *["rollout.batch_size"] * samples)
    step = P + (copied(network) + kept(network, rows, T)) // model
    learning = Part("gradients and activations", step, (*batches, *SLOTS, *NETWORK))
    judged = evaluation(c, vocab_size)
    passing = (learning, *drawing(c, network), *judged.passing)
    return Estimate(judged.held, passing, saved(judged.held, c.mesh.data))


def evaluation(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What answering and scoring test questions takes; rows are not spread over the data axis."""
    c, network = config, transformer(config, vocab_size)
    rows, prompt, actions = c.evaluate.rows, c.prompt_slots, c.evaluate.max_actions
    size = max(sampling(network, rows, prompt, actions), scoring(network, rows, prompt + actions))
    keys = ("evaluate.rows", "prompt_slots", "evaluate.max_actions", *NETWORK)
    passing = Part("answering questions", size // c.mesh.model, keys)
    return Estimate(held(c, network), (passing,))


def answering(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What one answer takes."""
    c, network = config, transformer(config, vocab_size)
    size = sampling(network, 1, c.prompt_slots, c.evaluate.max_actions) // c.mesh.model
    keys = ("prompt_slots", "evaluate.max_actions", *NETWORK)
    return Estimate(held(c, network), (Part("answering a question", size, keys),))


def held(config: ConfigDict, network: TransformerConfig) -> tuple[Part, ...]:
    """The training state, which is restored whole; every device has the whole buffer."""
    c, P = config, weights(network, config.mesh.model)
    state = (
        Part("the parameters", P, NETWORK),
        Part("the optimiser's moments", 2 * P, NETWORK),
    )
    if not draws_samples(c):
        return state
    buffer = replay(c.rollout.capacity, c.prompt_slots + c.max_actions)
    return (*state, Part("the replay buffer", buffer, ("rollout.capacity", *SLOTS)))


def saved(state: tuple[Part, ...], data: int) -> int:
    """Bytes that writing a checkpoint takes of the machine's memory, which CPUs share.

    On each device the state that is written, which the next step cannot write over; and what orbax
    packs of it, once for all copies on the data axis (see experiments/save_memory.py).
    """
    size = sum(part.size for part in state)
    return 0 if meshes.devices()[0].memory_stats() else size + size // data


def drawing(config: ConfigDict, network: TransformerConfig) -> tuple[Part, ...]:
    """What sampling the policy's own episodes takes, where a run trains on them."""
    c, rows = config, config.rollout.rows // config.mesh.data
    if not draws_samples(c):
        return ()
    size = sampling(network, rows, c.prompt_slots, c.max_actions) // c.mesh.model
    return (Part("drawing samples", size, ("rollout.rows", *SLOTS, *NETWORK)),)


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


def free(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this machine has left, or the containers that this process runs in."""
    return min([psutil.virtual_memory().available, *left_in_groups(root, own)])


def left_in_groups(root: Path, own: Path) -> Iterator[int]:
    """What each control group of this process that has a limit, and each around it, has left."""
    lines = own.read_text().splitlines() if own.is_file() else []  # Linux has it
    for _, controllers, path in (line.split(":", 2) for line in lines):
        for folder, limit, used in (GROUPS[c] for c in controllers.split(",") if c in GROUPS):
            inner = root / folder / path.strip("/")
            for group in (g for g in (inner, *inner.parents) if g.is_relative_to(root / folder)):
                with contextlib.suppress(OSError, ValueError, KeyError):  # no limit, or none told
                    yield left(group, limit, used)


def left(group: Path, limit: str, used: str) -> int:
    """Bytes that a control group has left: the kernel gives up what it keeps of files."""
    there, taken = (int((group / f"memory.{name}").read_text()) for name in (limit, used))
    parts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    cached = (parts.get(f"total_{x}", parts[x]) for x in ("active_file", "inactive_file"))
    return there - taken + sum(map(int, cached))


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, here or on a device."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


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
