"""Provenance names what decides the bits of a result, and what has changed since."""

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

import sequencematch
from sequencematch.storage import provenance as module
from sequencematch.storage.provenance import (
    changes,
    compiler_flags,
    compiler_versions,
    processor,
    provenance,
    revision,
)


def make_repository(folder):
    """Makes a git repository with one module, committed."""
    (folder / "code").mkdir()
    (folder / "code" / "module.py").write_text("x = 1\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)


def test_the_revision_is_the_commit_and_a_checksum_of_changes_to_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "code" / "room" / "module.py"))
    (tmp_path / "elsewhere").mkdir()
    make_repository(tmp_path)
    head = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert revision() == head
    (tmp_path / "elsewhere" / "notes.txt").write_text("not code")
    assert revision() == head
    (tmp_path / "code" / "module.py").write_text("x = 2\n")
    changed = revision()
    assert changed.startswith(head + "+")
    (tmp_path / "code" / "module.py").write_text("x = 3\n")
    assert revision() not in (head, changed)
    more = set()
    # Git does not track this file yet; it runs all the same.
    for text in (b"y = 1\n", b"y = 2\n", b"y = '\xff'\n"):
        (tmp_path / "code" / "\u00e9 new.py").write_bytes(text)
        more.add(revision())
    assert len(more) == 3 and None not in more


def test_there_is_no_revision_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "code" / "room" / "module.py"))
    assert revision() is None
    (tmp_path / ".git").mkdir()
    assert revision() is None


def test_every_difference_is_named():
    now = provenance()
    assert now["versions"]["sequencematch"] == sequencematch.__version__
    assert changes(now, now) == []
    assert provenance() is now  # a commit during a run does not change the code that runs
    versions = now["versions"] | {"jax": "0.1"}
    before = now | {"versions": versions, "revision": "abc"}
    jax = f"jax 0.1 -> {now['versions']['jax']}"
    assert changes(before, now) == [jax, f"revision abc -> {now['revision']}"]
    for key in ("settings", "hardware", "revision", "mesh"):  # each decides bits, too
        assert changes(now | {key: {}}, now)
    known = [value for key in ("versions", "settings") for value in now[key].values()]
    assert len(changes({}, now)) == sum(value is not None for value in known) + 2


def test_has_the_settings_of_jax_and_the_number_of_usable_cores():
    source = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from sequencematch.storage import provenance
print(provenance.provenance())
"""
    env = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": "",
    }
    command = [sys.executable, "-c", source]
    printed = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    cores = 1 if hasattr(os, "sched_setaffinity") else os.cpu_count()
    assert "'jax_disable_most_optimizations': True" in printed
    assert "'jax_enable_x64': True" in printed and f"1 x cpu, {cores} cores of " in printed


def test_names_the_compilers_that_are_installed(monkeypatch):
    installed = [("libtpu", "1"), ("jax", "2"), ("jax-cuda13-plugin", "3"), (None, "4")]
    found = [SimpleNamespace(metadata={"Name": name, "Version": x}) for name, x in installed]
    monkeypatch.setattr(module, "distributions", lambda: found)
    assert compiler_versions() == {"jax-cuda13-plugin": "3", "libtpu": "1"}


@pytest.mark.parametrize("features", ["flags", "Features"])
def test_cpus_of_one_name_differ_by_their_features(tmp_path, features):
    def processor_with(*has):
        one = f"processor\t: 0\nmodel name\t: EPYC: a\n{features}\t: {' '.join(has)}\n"
        (tmp_path / "cpuinfo").write_text(f"{one}\n{one.replace('EPYC', 'another')}\nempty:\n")
        return processor(tmp_path / "cpuinfo")

    few, many = processor_with("fma"), processor_with("fma", "avx512f")
    assert few.startswith("EPYC: a with features ") and few == processor_with("fma") != many


def test_an_unknown_cpu_is_named_by_its_architecture(tmp_path):
    (tmp_path / "cpuinfo").touch()
    for path in (tmp_path / "cpuinfo", tmp_path / "none"):
        assert processor(path) == (platform.processor() or platform.machine())


def test_compiler_flags_exclude_the_number_of_simulated_devices(monkeypatch):
    def flags(*words):
        monkeypatch.setenv("XLA_FLAGS", " ".join(words))
        return compiler_flags()["XLA_FLAGS"]

    fast, eight = "--xla_cpu_enable_fast_math=true", "--xla_force_host_platform_device_count=8"
    assert flags() == flags(eight) == ""
    assert flags(fast) == flags(eight, fast) == fast
    assert flags(fast, "--a") == flags("--a", fast)
