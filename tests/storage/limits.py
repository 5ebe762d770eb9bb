"""Takes rights and resources from this process, as an I/O failure would."""

import contextlib
import os
import resource

NOBODY = 65534  # the user id that owns nothing


@contextlib.contextmanager
def no_root_rights():
    """Drops root's rights for a while: root may read and write everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextlib.contextmanager
def no_file_handles():
    """Lets this process open no more files for a while."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # stdin, stdout and stderr are open already; every other number is above the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
