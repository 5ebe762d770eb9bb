"""Available memory of devices and containers, and out-of-memory errors."""

from types import SimpleNamespace

import jax
import pytest

from sequencematch.setup import machine
from sequencematch.setup.defaults import defaults
from sequencematch.setup.machine import available_bytes, format_bytes, free_bytes, is_out_of_memory


def test_accelerators_have_their_own_memory_and_cpus_share_the_machines(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda: 2**34)
    assert [available_bytes(n) for n in (1, 8)] == [2**34, 2**31]
    # Of four processes two are on this machine; or all, or each has one of its own.
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    for here, expected in ((2, 2**32), (4, 2**31), (1, 2**33)):
        monkeypatch.setattr(machine, "processes_here", lambda here=here: here)
        assert available_bytes(8) == expected
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 2**36})
    monkeypatch.setattr(machine, "devices_here", lambda: [device])
    assert [available_bytes(n) for n in (1, 8)] == [2**36, 2**36]


@pytest.mark.parametrize(
    ("controller", "folder", "names", "total"),
    [
        ("", "", ("max", "current"), ""),
        ("memory", "memory", ("limit_in_bytes", "usage_in_bytes"), "total_"),
    ],
    ids=["version 2", "version 1"],
)
def test_free_memory_is_limited_by_the_container_and_all_around_it(
    tmp_path, controller, folder, names, total
):
    root, own = tmp_path / "groups", tmp_path / "own"
    inner = root / folder / "slice" / "job"
    inner.mkdir(parents=True)

    def free_with_limit(group, limit):
        stat = {"anon": 300, f"{total}active_file": 200, f"{total}inactive_file": 400}
        stat = {"active_file": 0, "inactive_file": 0} | stat  # version 1: without the groups inside
        (group / f"memory.{names[0]}").write_text(f"{limit}\n")
        (group / f"memory.{names[1]}").write_text("1000\n")
        lines = [f"{name} {size}\n" for name, size in stat.items()]
        (group / "memory.stat").write_text("".join(lines))
        return free_bytes(root, own)

    everything = free_bytes(root, own)  # there is no group yet
    own.write_text(f"9:cpu:/\n4:{controller}:/slice/job\n")
    assert free_bytes(root, own) == pytest.approx(everything, rel=0.2)
    assert free_with_limit(inner, "max") == pytest.approx(everything, rel=0.2)
    assert free_with_limit(inner, 5000) == 4600  # 5000 - 1000 used, of which 600 is page cache
    assert free_with_limit(inner.parent, 9000) == 4600
    assert free_with_limit(inner.parents[1], 4500) == 4100


def test_bytes_get_a_binary_unit():
    sizes = {
        0: "0.0 B",
        1023: "1,023.0 B",
        1536: "1.5 KiB",
        2**31: "2.0 GiB",
        2**80: "1,048,576.0 EiB",
    }
    assert {n: format_bytes(n) for n in sizes} == sizes


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (ValueError("x"), False),
    ],
)
def test_out_of_memory_errors_are_recognised(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("platform", "dtype", "chosen", "updates"),
    [
        ("gpu", "float32", None, [("jax_default_matmul_precision", "float32")]),
        ("gpu", "float32", "bfloat16", []),  # by the environment
        ("gpu", "bfloat16", None, []),
        ("cpu", "float32", None, []),
    ],
)
def test_products_of_a_float32_run_are_of_float32(monkeypatch, platform, dtype, chosen, updates):
    made, config = [], defaults()
    config.model.dtype = dtype
    settings = SimpleNamespace(
        jax_default_matmul_precision=chosen, update=lambda *args: made.append(args)
    )
    monkeypatch.setattr(machine, "jax", SimpleNamespace(config=settings))
    monkeypatch.setattr(machine, "devices_here", lambda: [SimpleNamespace(platform=platform)])
    machine.compute_exactly(config)
    assert made == updates
