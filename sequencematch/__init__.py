"""SequenceMatch (arXiv 2306.05426) in JAX and Flax: `load(DIR)` opens a trained run."""

from typing import Any

__version__ = "0.2.0"

# Top-level modules of 0.1.0, and where their code is now.
_MOVED = {
    "config": "setup.defaults",
    "dry_run": "cli.dry_run",
    "files": "storage.files and storage.console",
    "judge": "cli.results",
    "memory": "setup.memory and setup.machine",
    "modes": "cli",
    "provenance": "storage.provenance",
    "resume": "cli.resume",
    "run": "setup.build",
    "validation": "setup.rules and setup.check",
    "workdir": "cli.workdir",
}


def __getattr__(name: str) -> Any:
    """`load`, imported when it is first used: `import sequencematch` alone does not import jax."""
    if name == "load":
        from sequencematch.api import load

        return load
    if name in _MOVED:
        raise ImportError(f"sequencematch.{name} has moved to {_MOVED[name]}: see CHANGELOG.md")
    raise AttributeError(f"module 'sequencematch' has no attribute {name!r}")
