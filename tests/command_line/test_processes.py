"""A run of several processes is the run of one; it stops as one, and each says why.

Real processes on this machine, each with simulated devices of its own.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from sequencematch.cli.workdir import lock
from sequencematch.storage.processes import LOST
from tests.command_line.command import CONFIG, ROOT, TINY, assert_same_run, read_json, records
from tests.marks import exhaustive

DEVICES, MESH = 8, (2, 2, 2)  # in all; along data, fsdp and model
SIGNALLED_AT = 10  # records; a checkpoint is saved before
PATIENCE = 600  # seconds, on a busy machine


def start(folder, processes, flags, more=([], []), places=(ROOT, ROOT)):
    """Starts the processes of a run, and returns them; each has `more` flags and its own place."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = f"--xla_force_host_platform_device_count={DEVICES // processes}"
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": count}
    command = [sys.executable, "-m", "sequencematch.main", f"--workdir={folder}", *flags]
    several = [f"--coordinator=127.0.0.1:{port}", f"--processes={processes}"]
    found = []
    for i in range(processes):
        own = [*several, f"--process={i}", *more[i]] if processes > 1 else []
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        found.append(subprocess.Popen([*command, *own], cwd=places[i], env=env, **pipes))
    return found


def wait(processes):
    """(exit code, stdout, our lines on stderr) of each process."""
    ends = []
    for process in processes:
        out, err = process.communicate(timeout=PATIENCE)
        assert "[Gloo]" not in err  # its pieces would tear our lines
        ours = [line for line in err.splitlines() if line.startswith("sequencematch: ")]
        ends.append((process.returncode, out, ours or err[-2000:]))
    return ends


def wait_for_records(folder, processes):
    until = time.monotonic() + PATIENCE
    path = folder / "metrics.jsonl"
    while not path.exists() or path.read_text().count("\n") < SIGNALLED_AT:
        assert time.monotonic() < until and {p.poll() for p in processes} == {None}
        time.sleep(0.02)


@pytest.fixture(scope="module")
def several_flags(pairs_file):
    axes = {f"mesh.{name}": n for name, n in zip(("data", "fsdp", "model"), MESH, strict=True)}
    values = {**TINY, "data.path": pairs_file, **axes}
    return [CONFIG, *(f"--config.{key}={value}" for key, value in values.items())]


@pytest.fixture(scope="module")
def run_of_two(several_flags, tmp_path_factory):
    """The work directory of an uninterrupted run of two processes; read only."""
    folder = tmp_path_factory.mktemp("two") / "run"
    (first, out, _), (second, nothing, _) = wait(start(folder, 2, several_flags))
    assert (first, second) == (0, 0)
    assert out.startswith("sequencematch on words") and "in 2 processes" in out
    assert "Gloo" not in out and nothing == ""
    return folder


def losses(folder):
    return [r["loss"] for r in records(folder / "metrics.jsonl") if r["kind"] == "train"]


@pytest.mark.stress
def test_two_processes_train_as_one(run_of_two, several_flags, tmp_path):
    ((code, _, _),) = wait(start(tmp_path / "run", 1, several_flags))
    assert code == 0 and len(losses(run_of_two)) == 24
    assert losses(run_of_two) == pytest.approx(losses(tmp_path / "run"), rel=1e-5)
    names = [sorted(p.name for p in f.iterdir()) for f in (run_of_two, tmp_path / "run")]
    assert names[0] == names[1]
    here, there = (read_json(f / "summary.json")["test"] for f in (run_of_two, tmp_path / "run"))
    assert [x["right"] for x in here.values()] == [x["right"] for x in there.values()]


@pytest.mark.stress
def test_two_processes_finetune_as_one(directory, several_flags, tmp_path):
    """They begin with the same rows of edits, fitted on the rows of both."""
    mine = [flag for flag in several_flags if "config.model." not in flag and flag != CONFIG]
    mine += [
        f"--config={ROOT / 'configs' / 'pretrained.py'}:bc",
        f"--config.model.path={directory}",
    ]
    mine += ["--config.prompt_slots=10", "--config.train.steps=6", "--config.train.bc_steps=4"]
    folders = [tmp_path / "one", tmp_path / "two"]
    for processes, folder in enumerate(folders, 1):
        ends = wait(start(folder, processes, mine))
        assert [code for code, _, _ in ends] == [0] * processes, ends
    one, two = map(losses, folders)
    assert len(one) == 6 and two == pytest.approx(one, rel=1e-5)


@pytest.mark.stress
@pytest.mark.parametrize("killed", [0, exhaustive(1)])
def test_the_other_stops_when_one_is_killed_and_both_resume(
    run_of_two, several_flags, tmp_path, killed
):
    folder = tmp_path / "run"
    processes = start(folder, 2, several_flags)
    wait_for_records(folder, processes)
    processes[killed].kill()
    began = time.monotonic()
    code, _, lines = wait(processes)[1 - killed]
    assert time.monotonic() - began < 60
    assert (
        code == LOST and len(lines) == 1 and "another process of this run has stopped" in lines[0]
    )
    alone = shutil.copytree(folder, tmp_path / "alone")
    assert [code for code, _, _ in wait(start(folder, 2, ["--resume"]))] == [0, 0]
    assert_same_run(folder, run_of_two)
    if killed:
        assert [code for code, _, _ in wait(start(alone, 1, ["--resume"]))] == [0]
        assert losses(alone) == pytest.approx(losses(run_of_two), rel=1e-5)


@pytest.mark.stress
def test_a_request_to_one_stops_all_at_one_step(run_of_two, several_flags, tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, 2, several_flags)
    wait_for_records(folder, processes)
    processes[1].send_signal(signal.SIGUSR1)
    for code, _, lines in wait(processes):
        assert code == 75 and lines == [
            "sequencematch: interrupted by notice of preemption: continue with --resume"
        ]
    assert [code for code, _, _ in wait(start(folder, 2, ["--resume"]))] == [0, 0]
    assert_same_run(folder, run_of_two)


READING = {
    "evaluate": ["--mode=evaluate"],
    "sample": ["--mode=sample", "--num=6", "--samples=2", "--out={folder}/answers.jsonl"],
}


def read_by(processes, run, folder, flags):
    """What a reading command of so many processes leaves in a copy of a run."""
    shutil.copytree(run, folder)
    ends = wait(start(folder, processes, [flag.format(folder=folder) for flag in flags]))
    assert [(code, bool(out)) for code, out, _ in ends] == [
        (0, number == 0) for number in range(processes)
    ], ends
    answers = folder / "answers.jsonl"
    texts = answers.read_text() if answers.exists() else records(folder / "traces.jsonl")
    test = read_json(folder / "summary.json")["test"]
    return texts, {choice: (x["right"], x["length"], x["within"]) for choice, x in test.items()}


@pytest.mark.stress
@pytest.mark.parametrize("mode", [*map(exhaustive, READING)])
def test_two_processes_evaluate_and_sample_as_one(run_of_two, tmp_path, mode):
    one, two = (read_by(n, run_of_two, tmp_path / str(n), READING[mode]) for n in (1, 2))
    assert one == two


@pytest.mark.exhaustive
@pytest.mark.stress
def test_a_request_to_one_stops_all_that_answer(run_of_two, tmp_path):
    """What is written goes on where it stopped."""
    folder, whole = (shutil.copytree(run_of_two, tmp_path / name) for name in ("run", "whole"))
    flags = ["--mode=sample", "--num=6", "--samples=200"]
    processes = start(folder, 2, [*flags, f"--out={folder}/answers.jsonl"])
    until = time.monotonic() + PATIENCE
    while not (folder / "answers.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGUSR1)
    for code, _, lines in wait(processes):
        assert code == 75 and len(lines) == 1 and "notice of preemption" in lines[0]
    written = (folder / "answers.jsonl").read_text()
    for place in (folder, whole):
        ends = wait(start(place, 2, [*flags, f"--out={place}/answers.jsonl"]))
        assert [code for code, _, _ in ends] == [0, 0]
    texts = (whole / "answers.jsonl").read_text()
    assert (folder / "answers.jsonl").read_text() == texts
    assert texts.startswith(written) and len(written) < len(texts)


@pytest.mark.stress
def test_processes_that_were_asked_for_other_things_are_refused(several_flags, tmp_path):
    own = [[], ["--config.seed=1"]]
    for code, _, lines in wait(start(tmp_path / "run", 2, several_flags, own)):
        assert code == 2 and len(lines) == 1 and "asked for different things" in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.stress
def test_processes_that_share_no_work_directory_are_refused(several_flags, tmp_path):
    """One name, and a folder of its own for each, as on hosts that mount nothing in common."""
    places = [tmp_path / "a", tmp_path / "b"]
    for place in places:
        place.mkdir()
    for code, _, lines in wait(start("run", 2, several_flags, places=places)):
        assert code == 2 and len(lines) == 1 and "do not share the work directory" in lines[0]


@pytest.mark.exhaustive
@pytest.mark.stress
def test_processes_with_other_data_are_refused(several_flags, pairs_file, tmp_path):
    """One path, and a file of its own for each."""
    places, mine = [tmp_path / "a", tmp_path / "b"], "--config.data.path=pairs.jsonl"
    pairs = pairs_file.read_text().splitlines()
    for place, lines in zip(places, (pairs, pairs[::-1]), strict=True):
        place.mkdir()
        (place / "pairs.jsonl").write_text("\n".join(lines))
    ends = wait(start(tmp_path / "run", 2, [*several_flags, mine], places=places))
    for code, _, lines in ends:
        assert code == 2 and len(lines) == 1 and "have read different data" in lines[0], ends
    assert not (tmp_path / "run").exists()


@pytest.mark.stress
def test_when_the_first_refuses_the_other_stops(several_flags, tmp_path):
    """Another run holds the lock, which only the first process asks for."""
    folder = tmp_path / "run"
    folder.mkdir()
    with lock(folder):
        (first, _, why), (second, _, lines) = wait(start(folder, 2, several_flags))
    assert first == 2 and len(why) == 1 and "is in use by process" in why[0]
    assert second == LOST and len(lines) == 1 and "another process of this run has" in lines[0]


@pytest.mark.stress
def test_a_bug_in_one_process_is_shown_there_and_the_other_says_that_it_is_gone(
    several_flags, tmp_path, monkeypatch
):
    broken = """
import sys
if "--process=1" in sys.orig_argv:
    from sequencematch.cli import training
    training.train = None
"""
    (tmp_path / "sitecustomize.py").write_text(broken)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (first, _, lines), (second, _, shown) = wait(start(tmp_path / "run", 2, several_flags))
    assert first == LOST and len(lines) == 1 and "another process of this run has" in lines[0]
    assert second == 1 and "TypeError: 'NoneType' object is not callable" in shown
    assert "another process" not in shown


def test_a_missing_coordinator_is_refused_in_one_line(tiny_flags, tmp_path, assert_refused):
    several = ["--coordinator=127.0.0.1:9", "--processes=2", "--process=1", "--wait=1"]
    words = ["process 1 finds no coordinator at 127.0.0.1:9", "--coordinator"]
    assert_refused(words, *tiny_flags, f"--workdir={tmp_path / 'run'}", *several)
