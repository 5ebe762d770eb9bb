"""Requests to leave: heard at once or after the step, and never twice."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from sequencematch.train.interrupt import SIGNALS, Interrupted, Interruption


@pytest.mark.parametrize("number", SIGNALS)
def test_a_request_is_heard_at_once_or_waits_for_the_check(number):
    with Interruption() as interruption, pytest.raises(Interrupted, match=number.name):
        signal.raise_signal(number)
    with Interruption() as interruption, pytest.raises(Interrupted, match=number.name):
        with interruption.waiting():
            interruption.check(1)
            signal.raise_signal(number)
            late = True
            interruption.check(2)
        late = False
    assert late


def test_a_waiting_request_is_heard_in_a_stretch_that_may_be_left_and_at_the_end():
    reached = []
    with Interruption() as interruption, pytest.raises(Interrupted), interruption.waiting():
        signal.raise_signal(signal.SIGTERM)
        reached.append("waits")
        with interruption.heard():
            reached.append("never")
    with Interruption() as interruption, pytest.raises(Interrupted):
        with interruption.waiting():
            signal.raise_signal(signal.SIGTERM)
            reached.append("to the end")
        reached.append("never")
    assert reached == ["waits", "to the end"]


def test_it_is_no_exception_that_a_library_would_swallow():
    assert not issubclass(Interrupted, Exception)


def test_handlers_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    for asks in (False, True):
        with Interruption() as interruption:
            try:
                with interruption.waiting():
                    assert [signal.getsignal(number) for number in SIGNALS] != before
                    signal.raise_signal(signal.SIGINT) if asks else None
            except Interrupted:
                assert asks
                assert {signal.getsignal(number) for number in SIGNALS} == {signal.SIG_DFL}
        assert [signal.getsignal(number) for number in SIGNALS] == before


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
from sequencematch.train.interrupt import Interruption
with Interruption() as interruption, interruption.waiting():
    print("ready", flush=True)
    while interruption._asked is None:
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("second", SIGNALS)
def test_a_second_signal_leaves_at_once(second):
    process = started(WAITS)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(second)
    assert process.wait(timeout=10) == -second


POD = """
import sys, time
import jax
jax.distributed.initialize("127.0.0.1:{port}", num_processes=1, process_id=0)
from sequencematch.train.interrupt import Interrupted, Interruption
try:
    with Interruption() as interruption, interruption.waiting():
        print("ready", flush=True)
        for step in range(1000):
            time.sleep(0.02)
            interruption.check(step)
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
