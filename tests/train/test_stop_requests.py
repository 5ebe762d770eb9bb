"""Requests to stop raise `Interrupted` once: immediately, or after the block that defers them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from sequencematch.train.stop_requests import SECOND_HANDLERS, Interrupted, StopRequests


@pytest.mark.parametrize("number", SECOND_HANDLERS)
def test_a_request_raises_at_once_or_at_the_check_of_a_deferred_block(number):
    with pytest.raises(Interrupted, match=number.name), StopRequests():
        signal.raise_signal(number)
    with pytest.raises(Interrupted, match=number.name), StopRequests() as stop_requests:
        with stop_requests.deferred():
            stop_requests.check()
            signal.raise_signal(number)
            at_check = True
            stop_requests.check()
        at_check = False
    assert at_check


def test_a_deferred_request_raises_in_an_interruptible_block_and_at_the_end():
    reached = []
    with pytest.raises(Interrupted), StopRequests() as stop_requests, stop_requests.deferred():
        signal.raise_signal(signal.SIGTERM)
        reached.append("waits")
        with stop_requests.interruptible():
            reached.append("never")
    with pytest.raises(Interrupted), StopRequests() as stop_requests:
        with stop_requests.deferred():
            signal.raise_signal(signal.SIGTERM)
            reached.append("to the end")
        reached.append("never")
    assert reached == ["waits", "to the end"]


def test_a_request_raises_although_stderr_is_closed():
    """As with `2>&1 | tee log`: Ctrl-C ends tee too, perhaps first."""
    stderr, (reads, writes) = os.dup(2), os.pipe()
    os.close(reads)
    os.dup2(writes, 2)
    try:
        with pytest.raises(Interrupted), StopRequests() as stop_requests, stop_requests.deferred():
            signal.raise_signal(signal.SIGINT)
            stop_requests.check()
    finally:
        os.dup2(stderr, 2)


def test_asyncio_does_not_swallow_a_request():
    async def request_stop():
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted), StopRequests():
        try:
            asyncio.run(request_stop())
        except Exception:
            pytest.fail("swallowed")


def test_a_request_whose_exception_was_lost_raises_at_the_end():
    with pytest.raises(Interrupted), StopRequests(), contextlib.suppress(Interrupted):
        signal.raise_signal(signal.SIGTERM)  # suppressed, as Python does in a finaliser


def test_a_request_whose_exception_was_lost_raises_at_the_next_occasion():
    raised_late = True
    with pytest.raises(Interrupted), StopRequests() as stop_requests:
        stop_requests.raise_if_asked()  # there is no request yet
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with stop_requests.interruptible():
            pytest.fail("raised too late")
    with pytest.raises(Interrupted), StopRequests() as stop_requests:
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        raised_late = False
        stop_requests.raise_if_asked()
        raised_late = True
    assert not raised_late


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(Interrupted, match="SIGTERM"), StopRequests() as stops, stops.deferred():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_restored():
    before = [signal.getsignal(number) for number in SECOND_HANDLERS]
    for requested in (False, True):
        with contextlib.suppress(Interrupted), StopRequests() as stop_requests:
            try:
                with stop_requests.deferred():
                    assert [signal.getsignal(number) for number in SECOND_HANDLERS] != before
                    signal.raise_signal(signal.SIGINT) if requested else None
            except Interrupted:
                assert requested
                assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert [signal.getsignal(number) for number in SECOND_HANDLERS] == before


def start(source):
    """A process that runs the source and has printed that it is ready."""
    env = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", source], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


WAITS = """
import time
from sequencematch.train.stop_requests import StopRequests
with StopRequests() as stop_requests, stop_requests.deferred():
    print("ready", flush=True)
    while stop_requests._request is None:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_a_second_ctrl_c_kills_and_a_second_sigterm_does_not():
    process = start(WAITS)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT


POD = """
import os, signal, sys, time
from collections import namedtuple
from pathlib import Path
import jax.numpy as jnp
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.distributed import Cluster, start, watch_for_abort
from sequencematch.train.stop_requests import Interrupted, StopRequests
try:
    with StopRequests() as stop_requests, stop_requests.deferred():
        start(Cluster("127.0.0.1:{port}", 1, 0), 20)
        stop_requests.share()
        print("ready", flush=True)
        for step in range(1000):
            time.sleep(0.02)
            if step == {save_at}:
                with Checkpoints(Path("{folder}"), keep=1) as checkpoints:
                    checkpoints.save(namedtuple("State", "step")(jnp.int32(10**6)), {{}})
                    os.kill(os.getpid(), signal.SIGUSR1)
                    time.sleep(1)  # jax hears of it in here
            stop_requests.check()
except Interrupted as reason:
    print(reason, step > 0, flush=True)
watch_for_abort("the line", 7)
os.abort()
"""


@pytest.mark.stress
@pytest.mark.parametrize("save_at", [-1, 10])
def test_a_signal_to_one_of_several_processes_is_a_notice_to_all_and_an_abort_is_a_line(
    tmp_path, save_at
):
    """Also one that comes while a checkpoint is saved, whose step is no number of a check."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(POD.format(port=port, folder=tmp_path, save_at=save_at))
    if save_at < 0:
        time.sleep(0.2)
        process.send_signal(signal.SIGUSR1)  # as SLURM warns
    assert process.stdout.readline() == "notice of preemption True\n"
    assert process.wait(timeout=20) == 7


def test_a_hangup_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequests() as stop_requests:
            signal.raise_signal(signal.SIGHUP)
            stop_requests.raise_if_asked()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_runs_without_signals():
    """Python lets only the main thread set handlers."""
    handlers = []

    def work():
        before = [signal.getsignal(number) for number in SECOND_HANDLERS]
        with StopRequests() as stop_requests, stop_requests.deferred():
            stop_requests.check()
            handlers.append([signal.getsignal(number) for number in SECOND_HANDLERS] == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [True]
