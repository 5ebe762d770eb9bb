"""Time goes to one activity or to steps, speeds follow from it, and traces can be read."""

import pytest

from sequencematch.train import profiling
from sequencematch.train.profiling import (
    Profiler,
    Stopwatch,
    Traced,
    Work,
    describe_past,
    describe_peak,
    peak_flops,
    read_traced,
    shares,
    speeds,
    time_between,
)

SPENT = {"compiling": 5.0, "data": 1.0, "sampling": 2.0, "validation": 8.0, "checkpoints": 4.0}
SPENT |= {"all": 30.0}  # so that steps took 10


def test_a_stopwatch_goes_on_from_earlier_parts(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(profiling.time, "perf_counter", lambda: now[0])
    watch = Stopwatch(SPENT | {"from": 3.0})
    before = watch.read()
    assert before == SPENT
    now[0] += 2.0
    with pytest.raises(KeyError), watch.measure("data"):
        now[0] += 3.0
        raise KeyError  # the time of what fails counts, too
    assert time_between(watch.read(), before) == dict.fromkeys(SPENT, 0.0) | {
        "data": 3.0,
        "all": 5.0,
    }


def test_shares_are_of_all_the_time_and_make_one():
    found = shares(SPENT)
    assert found["steps"] == pytest.approx(10 / 30) and found["validation"] == 8 / 30
    assert sum(found.values()) == pytest.approx(1)


def test_speeds_are_per_second_of_what_they_are_of():
    """Training: all but compiling and validation, 17 s. FLOP/s: steps and their data, 11 s."""
    found = speeds(Work(340, 10, 2200), SPENT, 2, "cpu")
    assert found == {
        "tokens_per_second": 20.0,
        "sampled_tokens_per_second": 5.0,
        "flops_per_second": 100.0,
    }
    found = speeds(Work(340, 0, 2200), SPENT, 2, "TPU v4")
    assert "sampled_tokens_per_second" not in found
    assert found["mfu"] == pytest.approx(100.0 / 275e12)
    assert speeds(Work(0, 0, 0), dict.fromkeys(SPENT, 0.0), 1, "cpu") == {"tokens_per_second": 0}


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        # Not to be taken for another: a smaller card, a slice of one, another TPU, and what has none.
        ("NVIDIA L40", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("TPU v5 other", None),
        ("NVIDIA A10G", None),
        ("cpu", None),
    ],
)
def test_a_peak_is_claimed_of_known_devices_only(kind, peak):
    assert peak_flops(kind) == peak


def test_what_mfu_means_is_said():
    assert "of the 756 TFLOP/s in bfloat16 of each" in describe_peak(10**9, "NVIDIA H100 PCIe")
    assert "no MFU is claimed" in describe_peak(10**9, "cpu")
    assert "no FLOP/s" in describe_peak(0, "NVIDIA H100")


@pytest.mark.parametrize("steps", ["", "5", "5:5", "7:5", "-1:5", "0:11", "a:b", "1:2:3", " 1:2"])
def test_steps_that_are_not_there_cannot_be_traced(steps):
    with pytest.raises(ValueError, match=f"^--profile={steps} must be FIRST:END"):
        read_traced(steps, None, 10)


def test_a_request_is_read():
    assert read_traced(None, None, 10) == Traced()
    assert read_traced("0:10", 10, 10) == Traced(range(10), 10)
    with pytest.raises(ValueError, match="--memory_profile=11 must be a step"):
        read_traced(None, 11, 10)


def test_steps_are_traced_into_files_beside_those_that_are_there(tmp_path, capsys):
    for _ in range(2):
        profiler = Profiler(tmp_path / "profile", Traced(range(3, 5), memory=4))
        for step in range(2, 7):
            profiler.at(step, {})
        profiler.close()
    traces = [*tmp_path.rglob("*.xplane.pb")]
    assert traces and all(path.stat().st_size > 0 for path in traces)
    memory = sorted(path.name for path in tmp_path.rglob("*.prof"))
    assert memory == ["memory-4-2.prof", "memory-4.prof"]
    assert "steps 3 to 4 are traced in" in capsys.readouterr().out


def test_a_trace_of_a_run_that_ends_meanwhile_is_kept(tmp_path, capsys):
    profiler = Profiler(tmp_path, Traced(range(3, 9)))
    for step in range(5):
        profiler.at(step, {})
    profiler.close()
    profiler.close()
    assert [*tmp_path.rglob("*.xplane.pb")]
    assert "steps 3 to 4 are traced in" in capsys.readouterr().out


def test_a_trace_of_a_run_that_is_resumed_within_its_steps_names_those_it_has(tmp_path, capsys):
    profiler = Profiler(tmp_path, Traced(range(3, 6)))
    for step in (4, 5, 6):
        profiler.at(step, {})
    assert "steps 4 to 5 are traced in" in capsys.readouterr().out


def test_what_a_resumed_run_is_past_is_told():
    traced = Traced(range(5, 7), memory=5)
    for nothing, step in ((Traced(), 5), (traced, 5), (traced, 0)):
        assert [*describe_past(nothing, step)] == []
    assert [*describe_past(traced, 6)] == [
        "--profile=5:7: the run goes on at step 6, so 6 to 6 are traced",
        "--memory_profile=5: the run goes on at step 6, so none is written",
    ]
    (told,) = describe_past(Traced(range(5, 7)), 7)
    assert told.endswith("the run goes on at step 7, so none is traced")


def test_a_trace_that_cannot_be_written_does_not_stop_the_run(tmp_path, capsys):
    folder = tmp_path / "profile"
    folder.write_text("a file")
    profiler = Profiler(folder, Traced(memory=1))
    profiler.at(1, {})
    profiler.at(2, {})
    assert "training goes on" in capsys.readouterr().err
