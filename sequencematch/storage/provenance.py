"""What made a result: versions, the revision of the code, and the hardware."""

import functools
import os
import platform
import subprocess
import zlib
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import jax

from sequencematch import __version__


def devices() -> list[jax.Device]:
    """All devices.

    Raises:
      ValueError: there are none.
    """
    try:
        return jax.devices()
    except Exception as error:  # a backend can fail to start in any way
        raise ValueError(f"jax finds no device ({type(error).__name__}: {error})") from error


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

# Settings of jax that change results; JAX_ENABLE_X64=1 in the environment sets the first.
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_threefry_gpu_kernel_lowering",
    "jax_random_seed_offset",
    "jax_high_dynamic_range_gumbel",
    "jax_softmax_custom_jvp",
    "jax_allow_f16_reductions",
    "jax_use_shardy_partitioner",
    "jax_disable_most_optimizations",
    "jax_optimization_level",
    "jax_exec_time_optimization_effort",
)

DEVICES = ("jax-cuda", "jax-rocm", "libtpu", "nvidia-")  # packages that compile for them
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # the compiler's, in the environment


@functools.cache
def provenance() -> Mapping[str, Any]:
    """What decides every bit of a result: versions, jax's settings, the commit of the code if it runs
    from a git repository, and the hardware; as of the first call.
    """
    versions = {"sequencematch": __version__, "python": platform.python_version()}
    settings = {name: jax.config.values.get(name) for name in SETTINGS}  # not all releases have all
    return {
        "versions": versions | {package: version(package) for package in PACKAGES} | compilers(),
        "settings": settings | compiler(),
        "revision": revision(),
        "hardware": hardware(),
    }


def revision() -> str | None:
    """The commit of the code that runs, and "+" with a checksum of what was changed since, if anything.

    None without git.
    """
    here = Path(__file__).parents[1]  # the package
    if not (here.parent / ".git").exists():
        return None

    def git(*words: str) -> bytes:
        command = ["git", "--no-optional-locks", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--", ".") + git("diff", "HEAD", "--", ".")
        for name in git("ls-files", "-z", "--others", "--exclude-standard", "--", ".").split(b"\0"):
            changed += (here / os.fsdecode(name)).read_bytes() if name else b""
        head = git("rev-parse", "HEAD").decode().strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not the owner's repository
        return None
    return head + (f"+{zlib.crc32(changed):08x}" if changed else "")


def compilers() -> dict[str, str]:
    """Versions of what compiles for accelerators, as far as it is installed."""
    found = {x.metadata["Name"]: x.version for x in distributions()}
    return {name: found[name] for name in sorted(filter(None, found)) if name.startswith(DEVICES)}


def compiler() -> dict[str, str]:
    """The flags that the compiler is given; of how many devices to simulate, the hardware tells."""
    given = {name: os.environ.get(name, "").split() for name in FLAGS}
    simulated = "--xla_force_host_platform_device_count"
    return {
        name: " ".join(sorted(flag for flag in flags if not flag.startswith(simulated)))
        for name, flags in given.items()
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name before -> now` for each version and setting that is another, revision, hardware, mesh."""
    old, new = _flat(before), _flat(now)
    names = [*new, *(name for name in old if name not in new)]
    return [f"{n} {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]


def _flat(made: Mapping[str, Any]) -> dict[str, Any]:
    whole = {name: made.get(name) for name in ("revision", "hardware", "mesh")}
    return {**made.get("versions", {}), **made.get("settings", {}), **whole}


def hardware() -> str:
    """The devices, and what they sit in."""
    found = devices()
    return f"{len(found)} x {found[0].device_kind}, {cores()} cores of {processor()}"


def processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The kind of CPU and its features, by which XLA chooses instructions; names say too little."""
    lines = facts.read_text().splitlines() if facts.is_file() else []  # Linux has it
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    first = {name.strip(): value.strip() for name, value in reversed([*pairs])}
    named = first.get("model name") or platform.processor() or platform.machine()
    features = first.get("flags") or first.get("Features")  # of x86, and of Arm
    return f"{named} with features {zlib.crc32(features.encode()):08x}" if features else named


def cores() -> int | None:
    """Those that this process may run on, where the system says which."""
    ours = getattr(os, "sched_getaffinity", None)
    return len(ours(0)) if ours else os.cpu_count()
