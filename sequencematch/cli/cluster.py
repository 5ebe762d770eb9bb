"""Joins the other processes of a run, if there are any, before anything else is done with jax."""

import json
import os
import zlib
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from sequencematch.cli import workdir
from sequencematch.storage.processes import agree
from sequencematch.train import distributed
from sequencematch.train.distributed import CLUSTERS, Cluster
from sequencematch.train.stop_requests import StopRequests

# What may differ between the processes of one run.
OWN = ("process", "cluster", "coordinator", "processes", "wait")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say which processes there are."""
    flags.DEFINE_enum(
        "cluster",
        "auto",
        list(CLUSTERS),
        "Where the processes of a run on several hosts are named: auto, in the environment, by SLURM, "
        "GKE or JAX_COORDINATOR_ADDRESS; tpu, by the TPU; none, there is one.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT in the first process, if flags name it.", flag_values=values
    )
    flags.DEFINE_integer("processes", None, "How many there are.", flag_values=values)
    flags.DEFINE_integer("process", None, "Number of this one, from 0.", flag_values=values)
    flags.DEFINE_integer(
        "wait", 300, "Seconds to wait for the others.", lower_bound=1, flag_values=values
    )


def join(asked: flags.FlagValues, config: ConfigDict, stop_requests: StopRequests) -> None:
    """Connects this process with the others of its run; does nothing if it is the only one.

    Args:
      asked: the flags.
      config: the configuration.
      stop_requests: those to one process become requests to all.

    Raises:
      ValueError: the processes do not meet, or were asked for different things.
    """
    named = Cluster(asked.coordinator, asked.processes, asked.process)
    cluster = CLUSTERS[asked.cluster](os.environ) if named == Cluster() else named
    if cluster is None:
        return
    distributed.start(cluster, asked.wait)
    stop_requests.share()
    values = {name: asked[name].value for name in asked if name not in (*OWN, "config")}
    asked_for = json.dumps([workdir.to_json(config), values], sort_keys=True, default=str)
    if not agree(zlib.crc32(asked_for.encode()) & 0x7FFFFFFF):
        raise ValueError(
            "the processes of this run were asked for different things: start all with the same flags"
        )


def check_agreement(folder: Path, has_run: bool, checksum: int) -> None:
    """Checks that all processes go the same way: from the same checkpoint, or none, with the same data.

    Args:
      folder: the work directory.
      has_run: whether this process sees a run in it.
      checksum: of the data.

    Raises:
      ValueError: they do not.
    """
    if not agree(has_run):
        raise ValueError(not_shared(folder))
    if not agree(checksum & 0x7FFFFFFF):
        raise ValueError(
            "the processes of this run have read different data: what config.data names must be the "
            "same on all hosts"
        )


def check_shared(folder: Path) -> None:
    """Checks that all processes see the lock that the first holds on the work directory.

    Raises:
      ValueError: they do not.
    """
    if not agree(zlib.crc32(workdir.read_holder(folder).encode()) & 0x7FFFFFFF):
        raise ValueError(not_shared(folder))


def not_shared(folder: Path) -> str:
    """What is said where a work directory is not the same folder for all processes."""
    return (
        f"the processes of this run do not share the work directory {folder}: name one with --workdir "
        "that all hosts mount"
    )
