"""Opens runs: their parameters, those that they began with, and their states."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sequencematch.cli import workdir
from sequencematch.cli.choice import NEWEST, find_step
from sequencematch.cli.frozen import with_kept, with_models_own
from sequencematch.cli.identity import check_model, frozen_checksum
from sequencematch.data.tasks import check_harmless
from sequencematch.setup.build import Parts, build
from sequencematch.setup.check import check_config
from sequencematch.setup.defaults import defaults, has_edits
from sequencematch.setup.examples import keeps_task, task_data
from sequencematch.setup.parameters import where
from sequencematch.setup.pretrained import (
    check_parameters,
    compute_alike,
    fit_new_edits,
    read_parameters,
)
from sequencematch.setup.relations import width_relations
from sequencematch.storage import files
from sequencematch.storage.checkpoint import Checkpoints, Restored
from sequencematch.storage.console import to_stderr
from sequencematch.storage.processes import first_finds
from sequencematch.storage.provenance import provenance
from sequencematch.train.state import FORMAT, TrainState

# Facts in a checkpoint that say what made it.
PROVENANCE = ("name", "checksum", "versions", "settings", "revision", "hardware", "mesh", "earlier")


def open_run(
    folder: Path, checkpoint: str = NEWEST, mesh: Mapping[str, int] | None = None, base: str = ""
) -> tuple[Parts, TrainState]:
    """The parts and a state of the run in a work directory, the newest sound one, to read only.

    It takes one device, or a mesh, whatever it was trained on. As on the command line, a run is refused
    if its config.json asks for Python code (a task of your own).

    Args:
      folder, checkpoint, mesh: the run, which of its states, and the devices along each axis.
      base: where the pretrained model lies that it began with, if that has moved.

    Raises:
      ValueError, OSError: there is no run, or it cannot be opened; one line says why.
    """
    config = workdir.read_config(folder)["config"]
    if base:
        config.model.path = base
        workdir.check_same(folder, config, workdir.FREE_TO_EVALUATE)
    config.mesh.update(dict.fromkeys(config.mesh, 1))
    check_config(config)
    # Nothing is trained there, so this mesh need not divide the batches of the run.
    config.mesh.update(dict(mesh or {}))
    check_config(config, width_relations)
    source = task_folder(config, folder)
    if source is None:
        check_harmless(config.task, task_data(config), defaults().data)
    parts = fill_frozen(build(config, source), folder)
    report_loaded_data(config, folder)
    return parts, restore(parts, folder, checkpoint).state


def task_folder(config: ConfigDict, folder: Path) -> Path | None:
    """The folder of a run, if it keeps its task; None for an older run, and for a task of your own."""
    return folder if keeps_task(config, folder) else None


def report_loaded_data(config: ConfigDict, folder: Path) -> None:
    """Prints that a run was opened whose folder does not keep its questions, but could."""
    if task_folder(config, folder) is None and ":" not in config.task:
        to_stderr(
            f"the run in {folder} keeps no questions of its own, as runs of older versions: its data "
            "were loaded"
        )


def initial_parameters(parts: Parts, trained: bool = True) -> nnx.State | None:
    """The parameters of another run that `config.init` names, or of the model in `config.model.path`.

    None where they are to be drawn. Only they are taken: step, moments and schedules start anew. Those
    that are trained may be any where `trained` is False. Edits that the other run has not taught begin
    as on a pretrained model.

    Raises:
      ValueError, OSError: that run cannot be opened, or has another tokenizer or network; or the model
        cannot be read.
    """
    if not parts.config.init.startswith(workdir.RUN_PREFIX):
        return read_parameters(parts, trained) if parts.config.model.path else None
    folder = files.expand(parts.config.init.removeprefix(workdir.RUN_PREFIX))
    theirs, state = open_run(folder, mesh=parts.config.mesh)
    if theirs.tokenizer.fingerprint != parts.tokenizer.fingerprint:
        raise ValueError(
            f"config.init={parts.config.init!r}: that run has another tokenizer, so its ids mean other "
            "tokens; use its data and edits, or start from random parameters with config.init=''"
        )
    like, found = parts.whole(parts.like.params), theirs.whole(state.params)
    has_shapes = jax.tree.map(jnp.shape, like) == jax.tree.map(jnp.shape, found)
    if not (has_shapes and compute_alike(parts, theirs)):
        raise ValueError(
            f"config.init={parts.config.init!r}: that run has a network of other sizes, or that "
            f"computes otherwise: set config.model to {workdir.to_json(theirs.config)['model']}"
        )
    # config.model.lora_base may be another.
    found = jax.tree.map(lambda x, y: x.astype(y.dtype), found, like)
    found = jax.device_put(found, where(like))
    knows_edits = has_edits(theirs.config) or parts.task.network
    return found if knows_edits else fit_new_edits(parts, found, trained=trained)


def first_parameters(parts: Parts, trained: bool = True) -> nnx.State:
    """All parameters that the run begins with: those that it names, else new ones.

    Args, Raises: as of `initial_parameters`.
    """
    found = initial_parameters(parts, trained)
    return parts.draw() if found is None else found


def first_arrays(parts: Parts) -> tuple[Parts, nnx.State | None]:
    """The parts of a run that begins, with what it does not train, and the parameters that it trains.

    The latter are None where all are trained and drawn. What is not trained is in memory once.

    Raises:
      ValueError, OSError: as of `initial_parameters`.
    """
    found = (first_parameters if jax.tree.leaves(parts.frozen) else initial_parameters)(parts)
    if found is None:
        return parts, None
    trained, frozen = parts.split(found)
    return parts._replace(frozen=frozen), trained


def has_checkpoint(folder: Path) -> bool:
    """Whether the run in a folder has or had a checkpoint; else it begins anew. All processes ask."""
    with Checkpoints(folder) as checkpoints:
        return first_finds(not checkpoints.is_empty() or checkpoints.all_lost())


def fill_frozen(parts: Parts, folder: Path) -> Parts:
    """The parts with arrays for the parameters that are not trained, which no checkpoint has.

    They are what the run in the folder began with: the copy that it keeps, or else what its model
    directory has or the seed gives. Runs of older versions that began with another read it again.

    Raises:
      ValueError, OSError: as of `initial_parameters`, or the copy cannot be read.
    """
    if not jax.tree.leaves(parts.frozen):
        return parts
    if (found := with_kept(parts, folder)) is not None:
        return found
    own = with_models_own(parts) if parts.config.init else None
    if own is not None and frozen_checksum(own) == workdir.read_config(folder)["frozen"]:
        return own
    return parts.with_frozen(first_parameters(parts, trained=False))


def check_initial_parameters(parts: Parts) -> None:
    """Checks what `initial_parameters` would read; of a pretrained model its names and shapes alone.

    Raises:
      ValueError, OSError: as there.
    """
    if parts.config.model.path and not parts.config.init:
        check_parameters(parts)
    else:
        initial_parameters(parts)


def current_provenance(parts: Parts) -> dict[str, Any]:
    """The provenance of what is trained now: all that decides its bits, the mesh included."""
    mesh = parts.config.mesh
    # As it was written before there was fsdp, where that is 1.
    sizes = (mesh.data, mesh.fsdp, mesh.model) if mesh.fsdp > 1 else (mesh.data, mesh.model)
    return {**provenance(), "mesh": " x ".join(map(str, sizes))}


def restore(parts: Parts, folder: Path, checkpoint: str = NEWEST) -> Restored:
    """A state of the run in a work directory; reports newer checkpoints that are damaged.

    Args:
      checkpoint: the newest sound one, "best" by validation, or a step.

    Raises:
      ValueError: there is none, it is of another version, or the data have changed.
      OSError: it cannot be read.
    """
    workdir.check_format(folder, FORMAT)
    checksum = workdir.read_config(folder)["checksum"]
    # Check the data first: with another alphabet the shapes differ, and every checkpoint looks damaged.
    if checksum is not None:
        workdir.check_data(folder, checksum, parts.data.checksum)
    with Checkpoints(folder) as checkpoints:
        restored = checkpoints.restore(parts.like, find_step(parts, folder, checkpoint))
    check_model(parts, restored.facts, folder)
    missing = {*PROVENANCE, "seconds", "records"} - restored.facts.keys()
    if missing:
        raise ValueError(
            f"the run in {folder} is of another version of sequencematch (its checkpoints lack "
            f"{', '.join(sorted(missing))}): use that version, or start again in another --workdir"
        )
    # Again, with the checkpoint's own checksum: config.json may lack it, or have been edited.
    workdir.check_data(folder, restored.facts["checksum"], parts.data.checksum)
    for damage in restored.damaged.values():
        to_stderr(f"{damage}: falling back to the one of step {int(restored.state.step)}")
    return restored
