"""What made a result: versions, the revision of the code, and the hardware."""

import functools
import os
import platform
import subprocess
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sequencematch import __version__
from sequencematch.train import mesh as meshes

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


@functools.cache
def provenance() -> Mapping[str, Any]:
    """Versions, and the commit of the code if it runs from a git repository; as of the first call."""
    versions = {"sequencematch": __version__, "python": platform.python_version()}
    return {
        "versions": versions | {package: version(package) for package in PACKAGES},
        "revision": revision(),
    }


def revision() -> str | None:
    """The commit of the code that runs, and "+" with a checksum of what was changed since, if anything.

    None without git.
    """
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "--no-optional-locks", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", ".") + git("diff", "HEAD", "--", ".")
        return git("rev-parse", "HEAD") + (
            f"+{zlib.crc32(changed.encode()):08x}" if changed else ""
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or not the owner's repository
        return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name before -> now` for each version that is another, and for the revision."""
    old = {**before.get("versions", {}), "revision": before.get("revision")}
    new = {**now["versions"], "revision": now["revision"]}
    return [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]


def hardware() -> str:
    """The devices, and what they sit in."""
    devices = meshes.devices()
    return (
        f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    )
