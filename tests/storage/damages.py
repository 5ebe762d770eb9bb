"""Ways to damage a checkpoint."""

import json
import shutil


def remove(path):
    """Removes a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def halve(path):
    """Truncates a file to half its size."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path, at=-1):
    """Flips a bit of the byte at an index."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def change_fingerprint(path):
    """Changes the saved fingerprint of one array, as if other bits had been saved."""
    meta = json.loads(path.read_text())
    name = next(iter(meta["fingerprints"]))
    meta["fingerprints"][name] ^= 1
    path.write_text(json.dumps(meta))


def change_metadata_type(path):
    """Writes JSON that orbax rejects when it lists all checkpoints, but not when it reads this one."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"performance_metrics": "x"}))
    (path.parent / "state" / "manifest.ocdbt").unlink()


# By name, a function that damages the checkpoint in a folder.
DAMAGES = {
    "another fingerprint": lambda folder: change_fingerprint(folder / "meta" / "metadata"),
    "flipped data": lambda folder: [flip_bit(p) for d in folder.rglob("d") for p in d.iterdir()],
    "no arrays": lambda folder: remove(folder / "state"),
    "no facts folder": lambda folder: remove(folder / "meta"),
    "no facts": lambda folder: remove(folder / "meta" / "metadata"),
    "half the facts": lambda folder: halve(folder / "meta" / "metadata"),
    "no tree": lambda folder: remove(folder / "state" / "_METADATA"),
    "half a tree": lambda folder: halve(folder / "state" / "_METADATA"),
    "no index": lambda folder: remove(folder / "state" / "manifest.ocdbt"),
    "half an index": lambda folder: halve(folder / "state" / "manifest.ocdbt"),
    "no data": lambda folder: [remove(p) for p in folder.rglob("d") if p.is_dir()],
    "half the data": lambda folder: [halve(p) for d in folder.rglob("d") for p in d.iterdir()],
    "metadata of another type": lambda folder: change_metadata_type(
        folder / "_CHECKPOINT_METADATA"
    ),
    "an empty folder": lambda folder: [remove(p) for p in folder.iterdir()],
}
