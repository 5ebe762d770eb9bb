"""How much memory a run takes, in closed form, and whether it is there. Bytes, on each device.

Symbols: B rows, T slots, L layers, D model, H heads, K key heads, N width of a head, F feed-forward,
V vocabulary, a bytes of an activation. The mesh's model axis splits the matrices (`train/mesh.py`) and,
with them, what is computed; its data axis splits batches.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from sequencematch.core.reductions import CHUNK
from sequencematch.models.config import TransformerConfig
from sequencematch.setup.build import make_objective
from sequencematch.setup.defaults import defaults, flat, network_config
from sequencematch.setup.machine import available_bytes, format_bytes
from sequencematch.storage.provenance import devices
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


def estimate_training(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What a training run takes, its looks at the validation set and its last verdict included.

    Args:
      config: a valid one.
      vocab_size: V; before the task is open, any lower bound.
    """
    c, network, samples = config, network_config(config, vocab_size), draws_samples(config)
    P, T, model = (
        parameter_bytes(network, c.mesh.model),
        c.prompt_slots + c.max_actions,
        c.mesh.model,
    )
    # Every device draws all rows of the buffer and takes them through the network.
    rows = c.train.batch_size // c.mesh.data + samples * c.rollout.batch_size
    batches = ("train.batch_size", *["rollout.batch_size"] * samples)
    step = P + (cast_bytes(network) + activation_bytes(network, rows, T)) // model
    learning = Part("gradients and activations", step, (*batches, *SLOTS, *NETWORK))
    judged = estimate_evaluation(c, vocab_size)
    passing = (learning, *sampling_parts(c, network), *judged.passing)
    return Estimate(judged.held, passing, checkpoint_bytes(judged.held, c.mesh.data))


def estimate_evaluation(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What answering and scoring test questions takes; rows are not spread over the data axis."""
    c, network = config, network_config(config, vocab_size)
    rows, prompt, actions = c.evaluate.rows, c.prompt_slots, c.evaluate.max_actions
    size = max(
        sampling_bytes(network, rows, prompt, actions),
        scoring_bytes(network, rows, prompt + actions),
    )
    keys = ("evaluate.rows", "prompt_slots", "evaluate.max_actions", *NETWORK)
    passing = Part("answering questions", size // c.mesh.model, keys)
    return Estimate(state_parts(c, network), (passing,))


def estimate_answering(config: ConfigDict, vocab_size: int = 1) -> Estimate:
    """What one answer takes."""
    c, network = config, network_config(config, vocab_size)
    size = sampling_bytes(network, 1, c.prompt_slots, c.evaluate.max_actions) // c.mesh.model
    keys = ("prompt_slots", "evaluate.max_actions", *NETWORK)
    return Estimate(state_parts(c, network), (Part("answering a question", size, keys),))


def state_parts(config: ConfigDict, network: TransformerConfig) -> tuple[Part, ...]:
    """The training state, which is restored whole; every device has the whole buffer."""
    c, P = config, parameter_bytes(network, config.mesh.model)
    state = (
        Part("the parameters", P, NETWORK),
        Part("the optimiser's moments", 2 * P, NETWORK),
    )
    if not draws_samples(c):
        return state
    buffer = replay_bytes(c.rollout.capacity, c.prompt_slots + c.max_actions)
    return (*state, Part("the replay buffer", buffer, ("rollout.capacity", *SLOTS)))


def checkpoint_bytes(state: tuple[Part, ...], data: int) -> int:
    """Bytes that writing a checkpoint takes of the machine's memory, which CPUs share.

    On each device the state that is written, which the next step cannot write over; and what orbax
    packs of it, once for all copies on the data axis (see experiments/save_memory.py).
    """
    size = sum(part.size for part in state)
    return 0 if devices()[0].memory_stats() else size + size // data


def sampling_parts(config: ConfigDict, network: TransformerConfig) -> tuple[Part, ...]:
    """What sampling the policy's own episodes takes, where a run trains on them."""
    c, rows = config, config.rollout.rows // config.mesh.data
    if not draws_samples(c):
        return ()
    size = sampling_bytes(network, rows, c.prompt_slots, c.max_actions) // c.mesh.model
    return (Part("drawing samples", size, ("rollout.rows", *SLOTS, *NETWORK)),)


def draws_samples(config: ConfigDict) -> bool:
    """Whether a run trains on the policy's own episodes."""
    return METHODS[config.method].matches and make_objective(config).needs_samples


def parameter_bytes(network: TransformerConfig, model: int) -> int:
    """The network's parameters, float32: matrices are split over the model axis, gains are not."""
    return FLOAT * (network.matrices // model + network.gains)


def cast_bytes(network: TransformerConfig) -> int:
    """The matrices in the activations' dtype, if that is not their own."""
    a = ACTIVATION[network.dtype]
    return 0 if a == FLOAT else a * network.matrices


def replay_bytes(capacity: int, slots: int) -> int:
    """The buffer: two integers and a truth a slot, three integers an episode."""
    return capacity * (slots * (2 * FLOAT + BOOL) + 3 * FLOAT)


def activation_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
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


def cache_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
    """Keys, values and final hidden states of every slot of the sampler's stack."""
    n, a = network, ACTIVATION[network.dtype]
    return a * rows * slots * (2 * n.layers * n.kv_heads * n.head_dim + n.d_model)


def forward_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
    """The working space of a forward pass: of one layer at a time, the larger of its two halves.

    The residual stream in and out and twice between; then scores, masked scores and softmax, or the
    three wide arrays of SwiGLU.
    """
    n, a = network, ACTIVATION[network.dtype]
    widest = max(3 * a * n.d_ff, 3 * FLOAT * n.heads * slots)
    return rows * slots * (4 * a * n.d_model + widest)


def sampling_bytes(network: TransformerConfig, rows: int, prompt: int, actions: int) -> int:
    """Reading prompts and completing them."""
    logits = 2 * FLOAT * rows * network.vocab_size
    return (
        cache_bytes(network, rows, prompt + actions) + forward_bytes(network, rows, prompt) + logits
    )


def scoring_bytes(network: TransformerConfig, rows: int, slots: int) -> int:
    """Values of whole episodes, forward only."""
    return (
        forward_bytes(network, rows, slots)
        + 2 * FLOAT * rows * min(slots, CHUNK) * network.vocab_size
    )


def check(config: ConfigDict, estimate: Estimate) -> None:
    """Whether what a run takes is there.

    Raises:
      ValueError: it is not; names what takes most, and what to make smaller.
    """
    there, largest = available_bytes(config.mesh.data * config.mesh.model), estimate.largest
    if estimate.peak > there:
        raise ValueError(
            f"the run needs about {format_bytes(estimate.peak)} of memory on each device and has "
            f"{format_bytes(there)}: {format_bytes(largest.size)} of it for {largest.name}; lower "
            + " or ".join(
                f"config.{key}={flat(config)[key]}" for key in keys_to_lower(config, largest)
            )
        )


def keys_to_lower(config: ConfigDict, part: Part) -> list[str]:
    """The three of a part's keys that are furthest above their defaults."""
    usual, given = flat(defaults()), flat(config)
    return sorted(part.keys, key=lambda key: -given[key] / usual[key])[:3]
