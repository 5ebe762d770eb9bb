"""TensorBoard event files, read without TensorBoard: length, 4 bytes, event, 4 bytes, and so on."""

import struct

from tensorboardX.proto.event_pb2 import Event


def events(folder):
    """Every event of a run's folder, file after file."""
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4


def scalars(folder):
    """(name, step, value) of every number, what the clock says left out."""
    return [
        (value.tag, event.step, value.simple_value)
        for event in events(folder)
        for value in event.summary.value
        if not value.tag.endswith(("/seconds", "/tokens_per_second"))
    ]
