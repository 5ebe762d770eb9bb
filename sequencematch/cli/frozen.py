"""What a run does not train, and no model directory has either: a copy in its own folder.

A run that begins with another, or with an adapter, would else need its folder for ever, unchanged; one
whose frozen parameters were drawn would need a machine that draws the same bits.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int32

from sequencematch.cli.identity import frozen_checksum
from sequencematch.cli.workdir import FROZEN, RUN_PREFIX, read_config
from sequencematch.models.lora import ADAPTER
from sequencematch.models.pretrained.families import EDITS
from sequencematch.setup.build import Parts
from sequencematch.setup.pretrained import freezes, read_parameters
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.files import expand
from sequencematch.storage.processes import is_first, wait_for_all


class Frozen(NamedTuple):
    """What is saved.

    Attributes:
      step: 0.
      params: the parameters that are not trained.
    """

    step: Int32[np.ndarray, ""]  # of no device: each process has it
    params: nnx.State


def with_models_own(parts: Parts) -> Parts | None:
    """The parts with what `config.model.path` has of what is not trained.

    None if there is no model, or if adapters or rows of edits are not trained: they are no model's own.

    Raises:
      ValueError, OSError: the model cannot be read.
    """
    if not parts.config.model.path or freezes(parts, f"{ADAPTER}|^{EDITS}"):
        return None
    config = parts.config.copy_and_resolve_references()
    config.init = ""
    params = read_parameters(parts._replace(config=config), trained=False)
    return parts.with_frozen(params)


def is_models_own(parts: Parts) -> bool:
    """Whether `config.model.path` has what is not trained.

    Raises:
      ValueError, OSError: the model cannot be read.
    """
    config, checksum = parts.config, frozen_checksum(parts)
    if not config.model.path or freezes(parts, f"{ADAPTER}|^{EDITS}"):
        return False
    if not config.init.startswith(RUN_PREFIX):
        return True  # the model alone, or an adapter, which brings nothing else
    other = read_config(expand(config.init.removeprefix(RUN_PREFIX)))
    theirs = other["config"]
    # Then that run has it from there. It is not read again: for a while it would be there twice.
    if (theirs.init, theirs.model.path, other["frozen"]) == ("", config.model.path, checksum):
        return True
    own = with_models_own(parts)
    return own is not None and frozen_checksum(own) == checksum


def keep_frozen(parts: Parts, folder: Path) -> None:
    """Saves what is not trained in the folder of a run that begins, unless its model has it.

    What was drawn is saved, too: on another kind of machine a seed draws numbers of other last bits.

    Raises:
      ValueError, OSError: the model cannot be read, or the copy not be written.
    """
    if is_first() and (folder / FROZEN).is_dir():  # of a start that was killed: it may be another
        shutil.rmtree(folder / FROZEN)
    wait_for_all("removed")
    if not jax.tree.leaves(parts.frozen) or is_models_own(parts):
        return
    with Checkpoints(folder / FROZEN, keep=1) as kept:
        kept.save(Frozen(np.zeros((), np.int32), in_whole_bytes(parts.frozen)), {})


def with_kept(parts: Parts, folder: Path) -> Parts | None:
    """The parts with the copy in the run's folder; None if there is none.

    Raises:
      ValueError, OSError: it is damaged, or cannot be read.
    """
    if not (folder / FROZEN).is_dir():
        return None
    with Checkpoints(folder / FROZEN) as kept:
        if kept.is_empty():  # a start that was killed, and has no checkpoint either
            return None
        like = Frozen(np.zeros((), np.int32), in_whole_bytes(parts.frozen))
        found = kept.restore(like).state.params
        return parts._replace(
            frozen=jax.tree.map(lambda x, y: x.astype(y.dtype), found, parts.frozen)
        )


def in_whole_bytes(params: nnx.State) -> nnx.State:
    """Parameters, or their shapes, with a byte for each number of 4 bits: files have no such type."""

    def widen(x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array | jax.ShapeDtypeStruct:
        if x.dtype != jnp.uint4:
            return x
        is_shape = isinstance(x, jax.ShapeDtypeStruct)
        return x.update(dtype=jnp.uint8) if is_shape else x.astype(jnp.uint8)

    return jax.tree.map(widen, params)
