"""What made a result: versions, settings, the revision of the code, and the hardware."""

import functools
import os
import platform
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import jax

from sequencematch import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")

# Settings of jax that change results; JAX_ENABLE_X64=1 in the environment sets the first, and so on.
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

COMPILERS = ("jax-cuda", "jax-rocm", "libtpu", "nvidia-")  # packages that compile for accelerators
FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")  # environment variables that the compilers read


def devices() -> list[jax.Device]:
    """All devices.

    Raises:
      ValueError: there are none.
    """
    try:
        return jax.devices()
    except Exception as error:  # the type depends on the backend
        asked = jax.config.jax_platforms
        advice = f" with JAX_PLATFORMS={asked}: unset it, or install what it needs" if asked else ""
        why = ": ".join(filter(None, [type(error).__name__, str(error)]))
        raise ValueError(f"jax finds no device ({why}){advice}") from error


def devices_here() -> list[jax.Device]:
    """The devices of this process; others can be asked for nothing.

    Raises:
      ValueError: there are none.
    """
    return [device for device in devices() if device.process_index == jax.process_index()]


@functools.cache
def provenance() -> Mapping[str, Any]:
    """Everything besides configuration and data that decides the bits of a result.

    It is read once, at the first call: what is committed while a run trains is not the code that runs.
    """
    versions = {"sequencematch": __version__, "python": platform.python_version()}
    versions |= {package: version(package) for package in PACKAGES}
    settings = {name: jax.config.values.get(name) for name in SETTINGS}  # some releases lack some
    return {
        "versions": versions | compiler_versions(),
        "settings": settings | compiler_flags(),
        "revision": revision(),
        "hardware": hardware(),
    }


def revision(here: Path | None = None, paths: Sequence[str] = (".",)) -> str | None:
    """The commit of the code; with "+" and a checksum of the changes since, if there are any.

    None where the code does not run from a git repository, or git is missing.

    Args:
      here: the root of the repository, or a folder in it; None for the package.
      paths: what counts as code, from there.
    """
    here = here or Path(__file__).parents[1]
    if not any((folder / ".git").exists() for folder in (here, here.parent)):
        return None

    def git(*words: str) -> bytes:
        command = ["git", "--no-optional-locks", "-C", str(here), *words, "--", *paths]
        return subprocess.run(command, capture_output=True, check=True).stdout

    try:
        changed = git("status", "--porcelain") + git("diff", "HEAD")
        # The diff has no files that git does not track; they run all the same.
        for name in git("ls-files", "-z", "--others", "--exclude-standard").split(b"\0"):
            changed += (here / os.fsdecode(name)).read_bytes() if name else b""
        head = git("rev-parse", "HEAD").splitlines()[0].decode()
    except (OSError, subprocess.CalledProcessError):  # no git, or the repository of another user
        return None
    return head + (f"+{zlib.crc32(changed):08x}" if changed else "")


def compiler_versions() -> dict[str, str]:
    """Versions of the installed packages that compile for accelerators."""
    # Each is read once: x.version would read its metadata a second time.
    found = {each["Name"]: each["Version"] for each in (x.metadata for x in distributions())}
    return {name: found[name] for name in sorted(filter(None, found)) if name.startswith(COMPILERS)}


def compiler_flags() -> dict[str, str]:
    """The flags given to the compilers in the environment, in alphabetical order.

    Without the number of simulated devices: `hardware` has it.
    """
    given = {name: os.environ.get(name, "").split() for name in FLAGS}
    simulated = "--xla_force_host_platform_device_count"
    return {
        name: " ".join(sorted(flag for flag in flags if not flag.startswith(simulated)))
        for name, flags in given.items()
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """`name before -> now` for each version and setting, revision, hardware and mesh that differs."""
    old, new = _flat(before), _flat(now)
    names = [*new, *(name for name in old if name not in new)]
    return [f"{n} {old.get(n)} -> {new.get(n)}" for n in names if old.get(n) != new.get(n)]


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    whole = {name: record.get(name) for name in ("revision", "hardware", "mesh")}
    return {**record.get("versions", {}), **record.get("settings", {}), **whole}


def merge_provenance(
    saved: Mapping[str, Any], now: Mapping[str, Any], is_done: bool
) -> dict[str, Any]:
    """The provenance of a resumed run, with that of its earlier parts under `earlier`.

    Args:
      saved: facts of the checkpoint; without provenance if there is none.
      now: the current provenance.
      is_done: whether all steps are taken; then nothing more is trained, and `now` plays no part.
    """
    if "versions" not in saved:
        return {**now, "earlier": []}
    before = {key: saved[key] for key in now}
    if is_done or before == now:
        return before | {"earlier": saved["earlier"]}
    return {**now, "earlier": [*saved["earlier"], before]}


def hardware() -> str:
    """The devices, and the CPU of their host."""
    found = devices()
    several = f" in {jax.process_count()} processes" * (jax.process_count() > 1)
    return f"{len(found)} x {found[0].device_kind}{several}, {cores()} cores of {processor()}"


def processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The name of the CPU and a checksum of its features.

    XLA chooses instructions by the features, and CPUs of one name may differ in them.

    Args:
      facts: the file that describes the CPUs; only Linux has it.
    """
    lines = facts.read_text().splitlines() if facts.is_file() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    # A dict keeps the last value of a key; in reverse, that is the first CPU's.
    first = {name.strip(): value.strip() for name, value in reversed([*pairs])}
    name = first.get("model name") or platform.processor() or platform.machine()
    features = first.get("flags") or first.get("Features")  # on x86, and on Arm
    return f"{name} with features {zlib.crc32(features.encode()):08x}" if features else name


def cores() -> int | None:
    """The number of cores that this process may use; of all cores, where the system does not say."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count()
