"""Root may read and write everything; to be refused anything a test has to be somebody else."""

import contextlib
import os


@contextlib.contextmanager
def nobody():
    """This process is not root's for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
