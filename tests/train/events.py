"""Reads TensorBoard event files without TensorBoard.

A file is a sequence of frames: the length of the event (8 bytes) and its checksum (4), the event and
its checksum (4).
"""

import struct

from tensorboardX.proto.event_pb2 import Event

from sequencematch.train.profiling import CLOCK


def events(folder):
    """Every event of a work directory, file after file."""
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def scalars(folder):
    """(name, step, value) of every number that does not depend on the clock."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if value.tag.split("/", 1)[1] not in CLOCK
    ]
