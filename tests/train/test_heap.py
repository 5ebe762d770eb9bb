"""malloc has few arenas, however many threads there are."""

import ctypes
import os
import subprocess
import sys

import pytest

SOURCE = """
import ctypes, sys, threading
from sequencematch.train import heap

libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
if sys.argv[2] == "limited":
    heap.limit_arenas()
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
    ("asked", "environment", "limited"),
    [("limited", {}, True), ("free", {}, False), ("limited", {"MALLOC_ARENA_MAX": "16"}, False)],
)
def test_threads_share_two_arenas_unless_the_environment_says_otherwise(
    tmp_path, asked, environment, limited
):
    told = tmp_path / "told.xml"
    command = [sys.executable, "-c", SOURCE, str(told), asked]
    env = {k: x for k, x in os.environ.items() if not k.startswith("MALLOC_")}
    subprocess.run(command, env=env | environment | {"JAX_PLATFORMS": "cpu"}, check=True)
    arenas = told.read_text().count("<heap ")
    assert (arenas <= 2) == limited, arenas
