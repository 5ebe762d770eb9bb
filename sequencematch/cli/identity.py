"""What tells that a pretrained model is the one a run began with, wherever it lies."""

import dataclasses
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import differences, function_of, network_config
from sequencematch.storage.fingerprint import fingerprints


def frozen_checksum(parts: Parts) -> int | None:
    """Checksum of the parameters that are not trained; None where all are."""
    if not all(isinstance(x, jax.Array) for x in jax.tree.leaves(parts.frozen)):
        return None  # a dry run has shapes only
    found = fingerprints(parts.frozen)
    if not found:
        return None
    return zlib.crc32(repr(sorted((name, int(x)) for name, x in found.items())).encode())


def network_facts(parts: Parts) -> dict[str, Any] | None:
    """What the network computes with given parameters, as JSON; None of a task's own network."""
    if parts.task.network:
        return None
    edits = len(parts.tokenizer.pops)
    network = function_of(network_config(parts.config, parts.tokenizer.vocab_size, edits))
    return dataclasses.asdict(network)


def check_model(parts: Parts, facts: Mapping[str, Any], folder: Path) -> None:
    """Checks that what a checkpoint does not hold of the network is what the run began with.

    Args:
      parts: the run as it is configured now.
      facts: those of its checkpoint; older ones say less.
      folder: its work directory, for messages.

    Raises:
      ValueError: it is not.
    """
    config = parts.config
    if facts.get("frozen") != frozen_checksum(parts):
        raise ValueError(
            f"the parameters that the run in {folder} does not train are not those that it began with: "
            f"put back what config.init={config.init!r} or config.model.path={config.model.path!r} "
            "names, or name where it lies now"
        )
    ours, theirs = network_facts(parts), facts.get("network")
    if not config.model.path or ours is None or theirs is None:
        return
    # Versions may differ in what they know of a network.
    changed = differences(*({k: x[k] for k in ours.keys() & theirs.keys()} for x in (ours, theirs)))
    if changed:
        raise ValueError(
            f"config.model.path={config.model.path!r} computes otherwise than the model that the run "
            f"in {folder} began with ({'; '.join(changed)}): name that one"
        )
