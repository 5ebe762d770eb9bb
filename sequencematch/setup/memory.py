"""Estimates the memory of a run in closed form, and checks that it is available.

All sizes are bytes on each device. The estimates are made before anything is compiled, so that a run
that cannot fit is refused at once, with the key to lower.

The mesh's model axis splits the matrices (`models/sharding.py`) and with them what is computed; its
data axis splits batches; its fsdp axis splits batches, and the matrices where they are stored, of which
those of one layer exist whole at a time (`models/gathering.py`).
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from math import prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sequencematch.models.config import TransformerConfig
from sequencematch.models.gathering import where_computed
from sequencematch.models.sharding import TRANSFORMER, part_counts, partition, path_name
from sequencematch.models.transformer import parameter_shapes, remat_on
from sequencematch.setup.defaults import answer_limit, mesh_size, network_config
from sequencematch.setup.machine import available_bytes, format_bytes, pool_advice
from sequencematch.setup.network_bytes import (
    activation_bytes,
    cast_bytes,
    replay_bytes,
    sampling_bytes,
    scoring_bytes,
)
from sequencematch.setup.parameters import frozen_parameters
from sequencematch.setup.recipe import draws_samples
from sequencematch.setup.remedy import ANY, NETWORK, SLOTS, remedy
from sequencematch.storage.provenance import devices_here
from sequencematch.train.state import split_parameters

FROZEN = "frozen parameters"


class Part(NamedTuple):
    """One thing that takes memory.

    Attributes:
      name: what it is, for messages.
      size: bytes on each device.
      keys: configuration keys that it grows with.
    """

    name: str
    size: int
    keys: tuple[str, ...]


class Estimate(NamedTuple):
    """The memory that a run takes on each device.

    Attributes:
      permanent: parts that exist all the time: those of the train state, then frozen parameters.
      temporary: parts that exist one after the other, never two at once.
      checkpoint: bytes of this device's share of a checkpoint that is written meanwhile.
      examples: bytes that the examples keep. They are in memory when what is free is measured.
    """

    permanent: tuple[Part, ...]
    temporary: tuple[Part, ...]
    checkpoint: int = 0
    examples: int = 0

    @property
    def peak(self) -> int:
        """The most bytes that are in use at any time."""
        permanent = sum(part.size for part in self.permanent)
        most = max(part.size for part in self.temporary)
        return permanent + most + self.checkpoint + self.examples

    @property
    def step(self) -> int:
        """The bytes in use in a training step, which is the first of the temporary parts."""
        return sum(part.size for part in self.permanent) + self.temporary[0].size

    def largest(self, free: tuple[str, ...] = ANY, missing: int = 0) -> Part:
        """The part that takes the most.

        Args:
          free: keys, or prefixes of keys, that may be changed: where a part that these make smaller
            is large enough, the largest such part.
          missing: bytes that are too many.
        """
        parts = sorted(self.permanent + self.temporary, key=lambda part: -part.size)
        lower = [x for x in parts if x.size >= missing and any(k.startswith(free) for k in x.keys)]
        return (lower or parts)[0]


def estimate_training(config: ConfigDict, vocab_size: int = 1, examples: int = 0) -> Estimate:
    """The memory of a training run, its validations and final evaluation included.

    Args:
      config: a valid configuration.
      vocab_size: V; before the task is loaded, any lower bound.
      examples: bytes that the examples keep.
    """
    c, network, samples = config, network_sizes(config, vocab_size), draws_samples(config)
    T, model = c.prompt_slots + c.max_actions, c.mesh.model
    rows = c.train.batch_size + samples * c.rollout.batch_size
    rows //= c.mesh.data * c.mesh.fsdp * c.train.accumulate
    batches = ("train.batch_size", *["rollout.batch_size"] * samples)
    trained, _ = parameter_bytes(c, network)
    # New parameters and moments stand beside the old ones until it is known that they are finite.
    update = 4 * trained  # with the gradients
    step = cast_bytes(network) // (model * c.mesh.fsdp) + gathered_bytes(c, network, 2)
    step += activation_bytes(network, rows, T, states=c.max_actions + 1) // model
    keys = NETWORK if update > step else (*batches, *SLOTS, *NETWORK)
    learning = Part("gradients and activations", update + step, keys)
    evaluation = estimate_evaluation(c, vocab_size)
    temporary = (learning, *sampling_parts(c, network), *evaluation.temporary)
    saved = [part for part in evaluation.permanent if part.name != FROZEN]
    checkpoint = checkpoint_bytes(saved, c.mesh.data)
    return Estimate(evaluation.permanent, temporary, checkpoint, host_bytes(examples, c))


def estimate_evaluation(config: ConfigDict, vocab_size: int = 1, examples: int = 0) -> Estimate:
    """The memory of answering and scoring test questions."""
    c, network = config, network_sizes(config, vocab_size)
    rows, limit = -(-c.evaluate.rows // (c.mesh.data * c.mesh.fsdp)), answer_limit(c)
    size, key = max(
        (sampling_bytes(network, rows, c.prompt_slots, c.evaluate[limit]), limit),
        (scoring_bytes(network, rows, c.prompt_slots + c.evaluate.max_actions), "max_actions"),
    )
    keys = ("evaluate.rows", "prompt_slots", f"evaluate.{key}", *NETWORK)
    size = size // c.mesh.model + gathered_bytes(c, network, sampling=True)
    answering = Part("answering questions", size, keys)
    return Estimate(state_parts(c, network), (answering,), examples=host_bytes(examples, c))


def estimate_answering(config: ConfigDict, vocab_size: int = 1, examples: int = 0) -> Estimate:
    """The memory of answering one question."""
    c, network, limit = config, network_sizes(config, vocab_size), answer_limit(config)
    size = sampling_bytes(network, 1, c.prompt_slots, c.evaluate[limit]) // c.mesh.model
    size += gathered_bytes(c, network, sampling=True)
    answering = Part("answering a question", size, ("prompt_slots", f"evaluate.{limit}", *NETWORK))
    return Estimate(state_parts(c, network), (answering,), examples=host_bytes(examples, c))


def network_sizes(config: ConfigDict, vocab_size: int) -> TransformerConfig:
    """The sizes of the network.

    A known model has rows for its own ids only. Where sizes are given, edits count as any other ids:
    their rows make up far less than a percent.
    """
    is_known = config.model.path or config.model.preset
    edits = min(len(set(config.edits)), vocab_size - 1) if is_known else 0
    sizes = network_config(config, vocab_size, edits)
    return replace(sizes, remat=remat_on(sizes.remat, config.mesh.fsdp))


def state_parts(config: ConfigDict, network: TransformerConfig) -> tuple[Part, ...]:
    """The train state, and what is frozen.

    Restoring loads all of it, so that evaluation needs the memory, too.
    """
    c, (trained, frozen) = config, parameter_bytes(config, network)
    shares = c.mesh.data * c.mesh.fsdp
    # A buffer that rows do not divide is whole on every device.
    capacity = c.rollout.capacity // (1 if c.rollout.capacity % shares else shares)
    buffer = replay_bytes(capacity, c.prompt_slots + c.max_actions)
    parts = (
        Part("the parameters", trained, NETWORK),
        Part("the optimiser's moments", 2 * trained, NETWORK),  # Adam's two
        Part("the replay buffer", buffer * draws_samples(c), ("rollout.capacity", *SLOTS)),
        Part(FROZEN, frozen, NETWORK),
    )
    return tuple(part for part in parts if part.size)


def checkpoint_bytes(state: Iterable[Part], data: int) -> int:
    """Bytes of the machine's memory that writing a checkpoint takes, on each CPU device.

    Each device keeps the state that is being written, because the next step cannot reuse its buffers
    until the write ends. Orbax packs a copy of it, once for all replicas on the data axis (measured by
    tests/dependability/save_memory.py).

    Args:
      state: the parts that are saved.
      data: devices on the data axis.
    """
    size = sum(part.size for part in state)
    # An accelerator copies the state to the host first, so its own memory is not touched.
    return 0 if devices_here()[0].memory_stats() else size + size // data


def host_bytes(size: int, config: ConfigDict) -> int:
    """The part of each device in what this process keeps; 0 if devices have memory of their own."""
    own = mesh_size(config) // jax.process_count()  # its devices
    return 0 if devices_here()[0].memory_stats() else size // own


def sampling_parts(config: ConfigDict, network: TransformerConfig) -> tuple[Part, ...]:
    """The memory of sampling from the policy; empty if the run does not train on samples."""
    c, rows = config, config.rollout.rows // (config.mesh.data * config.mesh.fsdp)
    if not draws_samples(c):
        return ()
    size = sampling_bytes(network, rows, c.prompt_slots, c.max_actions) // c.mesh.model
    size += gathered_bytes(c, network, sampling=True)
    return (Part("drawing samples", size, ("rollout.rows", *SLOTS, *NETWORK)),)


def parameter_bytes(config: ConfigDict, network: TransformerConfig) -> tuple[int, int]:
    """Bytes of the parameters on each device: (of those that are trained, of those that are not).

    The rows of edits are counted as other rows are.
    """

    def size(params: nnx.State) -> int:
        cuts, bits = dict(config.mesh), 0
        for path, x in jax.tree_util.tree_leaves_with_path(params):
            parts = prod(part_counts(partition(path, x.shape, cuts, TRANSFORMER), cuts))
            bits += prod(x.shape) // parts * jax.dtypes.itemsize_bits(x.dtype)
        return bits // 8

    # Not checked as `split` does: here there may be no edits, which are all that is trained.
    trained, frozen = split_parameters(frozen_parameters(config), shapes_of(network))
    return size(trained), size(frozen)


def gathered_bytes(
    config: ConfigDict, network: TransformerConfig, copies: int = 1, sampling: bool = False
) -> int:
    """Bytes of the parameters that a device puts together from others: of one layer, and of the ends.

    Args:
      config: gives the mesh.
      network: the sizes.
      copies: of each; 2 with the gradient, before it is divided again.
      sampling: of all layers instead. No token changes them, so XLA puts them together before the first
        and keeps them.
    """
    cuts, bits = dict(config.mesh), 0
    for path, x in jax.tree_util.tree_leaves_with_path(shapes_of(network)):
        used = where_computed(path, x.shape, cuts)
        if used == partition(path, x.shape, cuts, TRANSFORMER):
            continue
        in_block = path_name(path).startswith("blocks/")
        in_floats = jnp.issubdtype(x.dtype, jnp.floating)
        layers = x.shape[0] if in_block and not sampling else 1
        dtype = network.dtype if in_block and in_floats else x.dtype
        size = prod(x.shape) // layers // prod(part_counts(used, cuts))
        bits += size * jax.dtypes.itemsize_bits(dtype) * (copies if in_floats else 1)
    return bits // 8


shapes_of = cache(parameter_shapes)  # an estimate asks for them more than once


class DoesNotFit(ValueError):
    """A run takes more memory than the machine has."""


def check(config: ConfigDict, estimate: Estimate, free: tuple[str, ...] = ANY) -> None:
    """Checks that the machine has the memory that a run takes.

    Args:
      config: the run's.
      estimate: what it takes.
      free: keys, or prefixes of keys, that may still be changed.

    Raises:
      DoesNotFit: it has less; names what takes the most and can be lowered, and the keys.
    """
    available, needed = available_bytes(mesh_size(config)), estimate.peak - estimate.examples
    if needed <= available:
        return
    largest = estimate.largest(free, needed - available)
    raise DoesNotFit(
        f"the run needs about {format_bytes(needed)} of memory on each device, but "
        f"{format_bytes(available)} are available: {format_bytes(largest.size)} of it for "
        f"{largest.name}; {remedy(config, largest.keys, free)}{pool_advice()}"
    )
