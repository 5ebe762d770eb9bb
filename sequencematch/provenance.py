"""What made a result: versions, the revision of the code, and the hardware."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from sequencematch import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def provenance() -> dict[str, Any]:
    """Versions, and the commit of the code if it runs from a git repository."""
    versions = {"sequencematch": __version__, "python": platform.python_version()}
    return {
        "versions": versions | {package: version(package) for package in PACKAGES},
        "revision": revision(),
    }


def revision() -> str | None:
    """The commit of the code that runs, "+" after it if files were changed since; None without git."""
    here = Path(__file__).parent
    if not (here.parent / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--", "."))
    except (OSError, subprocess.CalledProcessError):  # no git, or not the owner's repository
        return None


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name before -> now` for each version that is another, and for the revision."""
    old = {**before.get("versions", {}), "revision": before.get("revision")}
    new = {**now["versions"], "revision": now["revision"]}
    return [f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]]


def hardware() -> str:
    """The devices, and what they sit in."""
    devices = jax.devices()
    return (
        f"{len(devices)} x {devices[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}"
    )
