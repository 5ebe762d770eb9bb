"""What a run does not train, and no model directory has either: a copy in its own folder.

A run that begins with another, or with an adapter, would else need its folder for ever, unchanged.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int32

from sequencematch.cli.identity import frozen_checksum
from sequencematch.cli.workdir import FROZEN
from sequencematch.setup.build import Parts
from sequencematch.setup.pretrained import read_parameters
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.storage.processes import is_first, wait_for_all


class Frozen(NamedTuple):
    """What is saved.

    Attributes:
      step: 0.
      params: the parameters that are not trained.
    """

    step: Int32[Array, ""] | jax.ShapeDtypeStruct
    params: nnx.State


def with_models_own(parts: Parts) -> Parts | None:
    """The parts with what `config.model.path` has of what is not trained; None if there is no model.

    Raises:
      ValueError, OSError: the model cannot be read.
    """
    if not parts.config.model.path:
        return None
    config = parts.config.copy_and_resolve_references()
    config.init = ""
    params = read_parameters(parts._replace(config=config), trained=False)
    return parts.with_frozen(params)


def keep_frozen(parts: Parts, folder: Path) -> None:
    """Saves what is not trained in the folder of a new run, unless the run's start can be made again.

    It can where nothing but a model directory and the seed decide it.

    Raises:
      ValueError, OSError: the model cannot be read, or the copy not be written.
    """
    if not (parts.config.init and jax.tree.leaves(parts.frozen)):
        return
    own = with_models_own(parts)
    if own is not None and frozen_checksum(own) == frozen_checksum(parts):
        return
    if is_first():  # of a start that was killed
        shutil.rmtree(folder / FROZEN, ignore_errors=True)
    wait_for_all("ready to keep what is frozen")
    with Checkpoints(folder / FROZEN, keep=1) as kept:
        kept.save(Frozen(jnp.zeros((), jnp.int32), parts.frozen), {})


def with_kept(parts: Parts, folder: Path) -> Parts | None:
    """The parts with the copy in the run's folder; None if there is none.

    Raises:
      ValueError, OSError: it is damaged, or cannot be read.
    """
    if not (folder / FROZEN).is_dir():
        return None
    with Checkpoints(folder / FROZEN) as kept:
        like = Frozen(jnp.zeros((), jnp.int32), parts.frozen)
        return parts._replace(frozen=kept.restore(like).state.params)
