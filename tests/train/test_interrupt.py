"""Requests to leave: heard at once or after the step, and never twice."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from sequencematch.train.stop_requests import SECOND, Interrupted, StopRequests


@pytest.mark.parametrize("number", SECOND)
def test_a_request_is_heard_at_once_or_waits_for_the_check(number):
    with pytest.raises(Interrupted, match=number.name), StopRequests():
        signal.raise_signal(number)
    with pytest.raises(Interrupted, match=number.name), StopRequests() as stop_requests:
        with stop_requests.deferred():
            stop_requests.check(1)
            signal.raise_signal(number)
            late = True
            stop_requests.check(2)
        late = False
    assert late


def test_a_waiting_request_is_heard_in_a_stretch_that_may_be_left_and_at_the_end():
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


def test_it_is_heard_when_nobody_reads_what_is_said():
    """As with `2>&1 | tee log`: Ctrl-C ends tee, too, and perhaps first."""
    stderr, (reads, writes) = os.dup(2), os.pipe()
    os.close(reads)
    os.dup2(writes, 2)
    try:
        with pytest.raises(Interrupted), StopRequests() as stop_requests, stop_requests.deferred():
            signal.raise_signal(signal.SIGINT)
            stop_requests.check(1)
    finally:
        os.dup2(stderr, 2)


def test_no_library_swallows_it():
    async def prepared():
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted), StopRequests():
        try:
            asyncio.run(prepared())
        except Exception:
            pytest.fail("swallowed")


def test_a_request_whose_exception_was_lost_is_heard_at_the_end():
    with pytest.raises(Interrupted), StopRequests(), contextlib.suppress(Interrupted):
        signal.raise_signal(signal.SIGTERM)  # suppressed, as Python does in a finaliser


def test_a_request_whose_exception_was_lost_is_heard_in_between():
    heard = False
    with pytest.raises(Interrupted), StopRequests() as stop_requests:
        stop_requests.raise_if_asked()  # nobody has asked
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        with stop_requests.deferred(False):
            pytest.fail("heard too late")
    with pytest.raises(Interrupted), StopRequests() as stop_requests:
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        heard = True
        stop_requests.raise_if_asked()
        heard = False
    assert heard


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(Interrupted, match="SIGTERM"), StopRequests() as asked, asked.deferred():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in SECOND]
    for asks in (False, True):
        with contextlib.suppress(Interrupted), StopRequests() as stop_requests:
            try:
                with stop_requests.deferred():
                    assert [signal.getsignal(number) for number in SECOND] != before
                    signal.raise_signal(signal.SIGINT) if asks else None
            except Interrupted:
                assert asks
                assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
                assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert [signal.getsignal(number) for number in SECOND] == before


def started(source):
    """A process that runs the source and has said that it is ready."""
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
    while stop_requests._asked is None:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


def test_a_second_ctrl_c_leaves_at_once_and_a_second_sigterm_does_not():
    process = started(WAITS)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT


POD = """
import sys, time
import jax
jax.distributed.initialize("127.0.0.1:{port}", num_processes=1, process_id=0)
from sequencematch.train.stop_requests import Interrupted, StopRequests
try:
    with StopRequests() as stop_requests, stop_requests.deferred():
        print("ready", flush=True)
        for step in range(1000):
            time.sleep(0.02)
            stop_requests.check(step)
except Interrupted as reason:
    print(reason, step > 0, flush=True)
"""


def test_the_notice_that_jax_passes_between_the_processes_of_a_pod_is_honoured():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = started(POD.format(port=port))
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "notice of preemption True\n"
    assert process.wait(timeout=20) == 0
