"""Several processes, one a host, as one run: they meet, and none waits for one that is gone.

jax connects them by a service in the first process, the coordinator. Where this fails jax ends a
process from C++ by an abort; `watch_for_abort` turns that into a line and an exit code.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

from sequencematch.storage import console
from sequencematch.storage.processes import LOST, REFUSED, wait_for_all
from sequencematch.storage.provenance import devices

HEARTBEAT = 30  # seconds without a sign of life after which a process is taken for dead
LEAVING = 10  # seconds that a process which leaves waits for the others
GONE = (
    "another process of this run has stopped, or cannot be reached, so this one stops, too: see what "
    "that one says, and what jax says"
)


class Cluster(NamedTuple):
    """Where the processes of a run meet.

    Attributes:
      coordinator: HOST:PORT, in the first process. None: jax asks the TPU for all three.
      processes: how many there are.
      process: the number of this one, from 0.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None


def slurm_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The tasks of a SLURM step, if there are several; the port follows from the job's number."""
    e = environment
    # Of the step: a shell that salloc opens is one of a single task, in a job of many.
    count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in e else "SLURM_NTASKS"
    tasks, job = (whole_number(e, name) for name in (count, "SLURM_JOB_ID"))
    if (tasks or 1) < 2 or not {"SLURM_PROCID", "SLURM_STEP_NODELIST"} <= e.keys():
        return None
    # r[1-2]n[07-12,20],other: the first is r1n07
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", e["SLURM_STEP_NODELIST"]).group()
    host = re.sub(r"\[(\w+)[^\]]*\]", r"\1", first)
    port = 61440 + (job or 0) % 4096
    return Cluster(f"{host}:{port}", tasks, whole_number(e, "SLURM_PROCID"))


def whole_number(environment: Mapping[str, str], name: str) -> int | None:
    """A variable of the environment; None if it is not set.

    Raises:
      ValueError: it is no whole number.
    """
    text = environment.get(name)
    if text is not None and not text.isdecimal():
        raise ValueError(f"{name}={text!r} in the environment must be a whole number")
    return None if text is None else int(text)


def tpu_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """The hosts of a TPU slice, or of several, as GKE names them; jax knows the rest."""
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES", ""))
    several = "," in hosts  # jax, too, reads the first of the two that is there
    return Cluster() if several or "MEGASCALE_COORDINATOR_ADDRESS" in environment else None


def named_cluster(environment: Mapping[str, str]) -> Cluster | None:
    """What JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID say.

    Raises:
      ValueError: some of them are missing, or no numbers.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if environment.get(name)]
    if len(given) not in (0, 3):
        raise ValueError(f"{', '.join(names)}: set all three in the environment, or none")
    if not given:
        return None
    return Cluster(environment[names[0]], *(whole_number(environment, name) for name in names[1:]))


# How a run learns of its processes -> environment -> where they meet; None for a single process.
CLUSTERS: dict[str, Callable[[Mapping[str, str]], Cluster | None]] = {
    "auto": lambda e: named_cluster(e) or tpu_cluster(e) or slurm_cluster(e),
    "tpu": lambda e: Cluster(),
    "none": lambda e: None,
}


def check_cluster(cluster: Cluster) -> None:
    """Raises ValueError for numbers and addresses that cannot be."""
    at, n, i = cluster
    if cluster == Cluster():
        return
    if None in cluster:
        raise ValueError("--coordinator, --processes and --process go together: give all three")
    if not re.fullmatch(r"[^\s:]+:\d{1,5}", at) or not 0 < int(at.rpartition(":")[2]) < 2**16:
        raise ValueError(f"coordinator {at!r} must be HOST:PORT, in the first process")
    if not 0 <= i < n:
        raise ValueError(f"process {i} of {n}: processes are numbered from 0 to {n - 1}")


def start(cluster: Cluster, seconds: int) -> None:
    """Connects this process with the others; to be called before jax looks for devices.

    Args:
      cluster: where they meet.
      seconds: how long to wait for the others.

    Raises:
      ValueError: they do not meet, or this one has no device.
    """
    check_cluster(cluster)
    at, n, i = cluster
    if i:
        find_coordinator(at, i, seconds)
    elif at:
        check_port(at)
    # Collectives between CPUs; on accelerators it plays no part.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    console.keep_stdout_apart()
    who = f"the {n} processes of this run have" if n else "the processes of this run have"
    watch_for_abort(
        f"{who} not all met at {at or 'the TPU'} within {seconds} seconds", code=REFUSED
    )
    try:
        jax.distributed.initialize(
            at,
            n,
            i,
            initialization_timeout=seconds,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=LEAVING,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the processes do not meet at {at or 'the TPU'}: {error}") from error
    watch_for_abort(GONE, code=LOST)
    if devices()[0].platform == "cpu":
        console.drop_native_output()  # Gloo tells of each connection, in pieces that tear other lines
        # Programs with collectives between processes wait for ever where they come from jax's cache.
        jax.config.update("jax_enable_compilation_cache", False)


def check_port(address: str) -> None:
    """Raises ValueError if the coordinator cannot listen at its port: jax would crash."""
    port, dual = int(address.rpartition(":")[2]), socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        socket.create_server(("", port), family=family, dualstack_ipv6=dual).close()
    except OSError as error:
        raise ValueError(
            f"process 0 cannot listen at port {port} of --coordinator={address} "
            f"({os.strerror(error.errno)}): stop what does, or name another port in all processes"
        ) from error


def find_coordinator(address: str, process: int, seconds: int) -> None:
    """Returns when something listens at the address.

    Raises:
      ValueError: nothing does, for so many seconds.
    """
    host, port = address.rsplit(":", 1)
    until, why = time.monotonic() + seconds, ""
    while time.monotonic() < until:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            why = error.strerror or str(error)
            time.sleep(min(1, seconds / 10))
    raise ValueError(
        f"process {process} finds no coordinator at {address} after {seconds} seconds ({why}): start "
        "process 0 there, or name its HOST:PORT with --coordinator"
    )


_handlers: list = []  # of aborts; C only has their addresses
_telling, _told = threading.Lock(), set()


def tell_once(reason: str, error: BaseException | None = None) -> None:
    """Prints why this process ends, unless it has: Python and an abort can both come to it, at once.

    Args:
      reason: why.
      error: of which the first line is added: what looks like a lost process may be another fault.
    """
    with _telling:
        if reason not in _told:
            first = next(iter(str(error or "").strip().splitlines()), "")
            console.to_stderr(f"{reason} ({first})" if first else reason)
            _told.add(reason)


def watch_for_abort(reason: str | None, code: int) -> None:
    """From now on an abort of the process prints this line, or none, and the exit code is this.

    Python has no say in an abort by C++, which jax uses when it has lost the other processes.
    """

    def leave(_: int) -> None:
        if reason:
            tell_once(reason)
        os._exit(code)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(leave)
    library = ctypes.CDLL(None)
    library.signal.restype = ctypes.c_void_p
    library.signal(int(signal.SIGABRT), handler)
    _handlers.append(handler)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error of jax means that another process is gone."""
    words = ("Gloo", "NCCL", "Connection closed by peer")
    words += ("coordination service", "CoordinationService")
    return jax.distributed.is_initialized() and any(word in str(error) for word in words)


def leave(code: int, waits: bool) -> bool:
    """Takes leave of the other processes; returns whether there were any.

    Args:
      code: the exit code.
      waits: whether the others come here, too, and are waited for.
    """
    if not jax.distributed.is_initialized():
        return False
    watch_for_abort(None, code)
    if waits:
        with contextlib.suppress(Exception):  # they may have left in another way
            if code != REFUSED:  # which the others need not have done
                wait_for_all("the end")
            jax.distributed.shutdown()
    return True
