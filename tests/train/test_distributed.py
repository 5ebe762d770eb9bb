"""Several processes: where they are named, and which rows each of them feeds."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from sequencematch.setup.build import Rows
from sequencematch.train.distributed import (
    CLUSTERS,
    GONE,
    Cluster,
    check_cluster,
    check_port,
    find_coordinator,
)
from tests.marks import stress
from tests.train.runs import make_tiny_run

SLURM = {"SLURM_JOB_ID": "4097", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
JAX = {
    "JAX_COORDINATOR_ADDRESS": "a:1",
    "JAX_NUM_PROCESSES": "2",
    "JAX_PROCESS_ID": "1",
}
FOUND = [
    ({}, None),
    ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    (SLURM, None),  # the batch script itself, outside of srun
    *(
        (SLURM | {"SLURM_STEP_NODELIST": nodes}, Cluster(f"{first}:61441", 4, 3))
        for nodes, first in [
            ("one", "one"),
            ("n1,n2", "n1"),
            ("gpu[007-010,12],x", "gpu007"),
            ("a-b[3,5]", "a-b3"),
            ("r[1-2]n[03-04],x", "r1n03"),
        ]
    ),
    (SLURM | {"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_NUM_TASKS": "1"}, None),  # of salloc
    ({"TPU_WORKER_HOSTNAMES": "one"}, None),
    ({"TPU_WORKER_HOSTNAMES": "one,two"}, Cluster()),
    ({"TPU_PROCESS_ADDRESSES": "one:1,two:1", "TPU_WORKER_HOSTNAMES": "one"}, Cluster()),
    ({"MEGASCALE_COORDINATOR_ADDRESS": "one"}, Cluster()),
    (JAX, Cluster("a:1", 2, 1)),
    (JAX | SLURM | {"SLURM_STEP_NODELIST": "n1"}, Cluster("a:1", 2, 1)),
]


@pytest.mark.parametrize("environment, cluster", FOUND)
def test_processes_are_found_in_the_environment(environment, cluster):
    assert CLUSTERS["auto"](environment) == cluster
    assert CLUSTERS["none"](environment) is None


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="JAX_PROCESS_ID: set all three"):
        CLUSTERS["auto"]({"JAX_COORDINATOR_ADDRESS": "a:1"})
    for name, environment in (("JAX_NUM_PROCESSES", JAX), ("SLURM_NTASKS", SLURM)):
        with pytest.raises(ValueError, match=f"{name}='two' in the environment must be a whole"):
            CLUSTERS["auto"](environment | {name: "two"})
    for cluster, words in [
        (Cluster("a:1"), "give all three"),
        (Cluster("a", 2, 0), "must be HOST:PORT"),
        (Cluster("a:65536", 2, 0), "must be HOST:PORT"),
        (Cluster("a:1", 2, 2), "numbered from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            check_cluster(cluster)


def test_a_missing_coordinator_is_said_with_its_address():
    with pytest.raises(
        ValueError, match=r"process 2 finds no coordinator at 127.0.0.1:9 after 1 s"
    ):
        find_coordinator("127.0.0.1:9", 2, seconds=1)


def test_a_port_that_is_taken_is_said_before_jax_listens_there():
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"cannot listen at port .*{address} .*in use"):
            check_port(address)
    check_port(address)


@pytest.mark.parametrize("processes", [stress(2), 4])
def test_the_rows_of_all_processes_are_those_of_one(spellings, processes):
    """Order, noise and prompts; the batch does not depend on who feeds it."""
    one, shares = (make_tiny_run(spellings, {"train.batch_size": B}) for B in (8, 8 // processes))
    for step in (0, 1, 7):  # the last is in another epoch
        fed = [Rows(shares.episodes, [i], processes)[step] for i in range(processes)]
        both = Rows(shares.episodes, [*range(processes)], processes)[step]
        expected = one.episodes[step]
        joined = jax.tree.map(lambda *x: np.concatenate(x), *fed)
        jax.tree.map(np.testing.assert_array_equal, joined, expected)
        jax.tree.map(np.testing.assert_array_equal, both, expected)


@pytest.mark.parametrize("told", [stress(True), False])
def test_a_lost_process_is_told_once(told):
    """Python may have printed it when C++ aborts, or may never come to that."""
    code = f"""
import os
from sequencematch.train import distributed
distributed.watch_for_abort(distributed.GONE, code=3)
if {told}:
    distributed.tell_once(distributed.GONE, OSError("NCCL: no space in /dev/shm\\n\\nat 0x0"))
os.abort()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 3
    says = " (NCCL: no space in /dev/shm)" if told else ""
    assert done.stderr == f"sequencematch: {GONE}{says}\n"


def test_a_process_without_a_device_says_so():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"""
from sequencematch.train import distributed
distributed.start(distributed.Cluster("127.0.0.1:{port}", 1, 0), 30)
"""
    env = os.environ | {"JAX_PLATFORMS": "nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: jax finds no device") and "JAX_PLATFORMS=nowhere" in last
