"""The environment variable limits the number of malloc arenas, however many threads there are."""

import ctypes
import os
import subprocess
import sys

import pytest

from sequencematch.storage.allocator import VARIABLE, limit_arenas

# Eight threads that allocate at the same time, and then glibc's list of its arenas.
SOURCE = """
import ctypes, sys, threading
from sequencematch.storage import allocator

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
allocator.limit_arenas()
together = threading.Barrier(8)


def work():
    together.wait()
    libc.malloc(1000)
    together.wait()


threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
@pytest.mark.parametrize(
    ("environment", "most"),
    [({VARIABLE: "2"}, 2), ({VARIABLE: "4"}, 4), ({VARIABLE: ""}, None), ({}, None)],
)
def test_the_variable_limits_the_arenas_of_all_threads(tmp_path, environment, most):
    info = tmp_path / "malloc.xml"
    command = [sys.executable, "-c", SOURCE, str(info)]
    env = {k: x for k, x in os.environ.items() if not k.startswith(("MALLOC_", VARIABLE))}
    subprocess.run(command, env=env | environment | {"JAX_PLATFORMS": "cpu"}, check=True)
    arenas = info.read_text().count("<heap ")
    assert arenas > 4 if most is None else arenas <= most


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "9" * 30])
def test_a_value_that_is_no_positive_integer_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"{VARIABLE}={text!r} must be a whole number"):
        limit_arenas()
