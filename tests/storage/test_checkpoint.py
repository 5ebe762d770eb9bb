"""What is saved is restored bit for bit, the right checkpoints remain, failed saves are reported."""

import contextlib
import ctypes
import re
import resource
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

from sequencematch.storage import checkpoint
from sequencematch.storage.checkpoint import SAVED, Checkpoints
from tests.marks import stress
from tests.storage.folders import restore, saved_steps
from tests.train.runs import STEPS, BatchesWithEvent, Crash, bits, crash, train


def save_steps(checkpoints, state, steps):
    """Saves the same arrays under several steps."""
    for step in steps:
        checkpoints.save(state._replace(step=state.step + step), {})


@pytest.mark.stress
def test_steps_after_a_save_do_not_change_what_is_restored(tiny_run, tmp_path):
    parts, plan, episodes, _ = tiny_run
    state = parts.initial()
    with Checkpoints(tmp_path, 1) as checkpoints:
        for i in range(3):
            batch = jax.device_put(episodes[i], plan.batch_sharding)
            if i == 1:
                before = bits(state)
                checkpoints.save(state, {"seconds": 4.5})
            # Each step overwrites the buffers of its state while the save may still be reading them.
            state, _ = plan.phases[0].step(state, batch)
    found = restore(tiny_run, tmp_path)
    assert (bits(found.state), found.facts, found.damaged) == (before, {"seconds": 4.5}, {})
    assert bits(state) != before
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), (found.state, parts.like))
    assert shapes[0] == shapes[1]


@pytest.mark.stress
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc")
def test_a_save_returns_freed_memory_to_the_system(tiny_run, tmp_path):
    libc, size, process = ctypes.CDLL(None), 100_000, psutil.Process()
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    state = tiny_run.parts.initial()
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(state, {})  # the first save allocates memory that later ones reuse
        checkpoints.wait()
        # Every second piece is freed. Those in use lie between: none is at the end, which glibc trims
        # by itself.
        pieces = [libc.malloc(size) for _ in range(2000)]
        for piece in pieces:
            ctypes.memset(piece, 1, size)
        for piece in pieces[::2]:
            libc.free(piece)
        before = process.memory_info().rss
        checkpoints.save(state._replace(step=np.int32(1)), {})
        checkpoints.wait()
        after = process.memory_info().rss
    for piece in pieces[1::2]:
        libc.free(piece)
    assert before - after > 0.5 * 1000 * size


def test_a_step_is_saved_only_once(tiny_run, tmp_path):
    with Checkpoints(tmp_path, 2) as checkpoints:
        for seconds in (1.0, 2.0):
            checkpoints.save(tiny_run.parts.initial(), {"seconds": seconds})
    assert restore(tiny_run, tmp_path).facts == {"seconds": 1.0}


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [
        stress(1, 0, [24]),
        stress(3, 0, [18, 21, 24]),
        stress(1, 6, [6, 12, 18, 24]),
        (2, 9, [9, 18, 21, 24]),
    ],
)
def test_the_newest_and_the_multiples_remain_and_reading_removes_none(
    tiny_run, tmp_path, keep, every, left
):
    with Checkpoints(tmp_path, keep, every) as checkpoints:
        save_steps(checkpoints, tiny_run.parts.initial(), range(3, STEPS + 1, 3))
    for _ in range(2):
        assert saved_steps(tmp_path) == left
        assert int(restore(tiny_run, tmp_path).state.step) == STEPS


def test_a_folder_may_be_named_by_way_of_another(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = Path("..", "run")
    with Checkpoints(folder, 1) as checkpoints:
        save_steps(checkpoints, tiny_run.parts.initial(), [3])
    assert int(restore(tiny_run, folder).state.step) == 3


@pytest.mark.parametrize(
    ("keep", "every", "left"), [stress(1, 0, [24]), stress(2, 0, [21, 24]), (2, 12, [12, 21, 24])]
)
def test_tidy_removes_what_a_kill_during_a_removal_left(tiny_run, tmp_path, keep, every, left):
    with Checkpoints(tmp_path, 9) as checkpoints:
        save_steps(checkpoints, tiny_run.parts.initial(), (12, 18, 21, 24))
    shutil.rmtree(tmp_path / "checkpoints" / "18" / "meta")
    with Checkpoints(tmp_path, keep, every) as checkpoints:
        checkpoints.tidy()
    assert saved_steps(tmp_path) == left


@pytest.mark.stress
def test_the_best_remains_beside_the_newest_until_there_is_a_better_one(tiny_run, tmp_path):
    state = tiny_run.parts.initial()
    with Checkpoints(tmp_path, 2) as checkpoints:
        for step, is_best in ((3, True), (6, False), (9, False), (12, False)):
            save_steps(checkpoints, state, [step])
            if is_best:
                checkpoints.keep_best(step)
        checkpoints.wait()
        assert saved_steps(tmp_path) == [3, 9, 12]
        checkpoints.keep_best(12)
        assert saved_steps(tmp_path) == [9, 12]
        save_steps(checkpoints, state, [15, 18, 21])
    assert saved_steps(tmp_path) == [12, 18, 21]
    with Checkpoints(tmp_path, 1, best=12) as checkpoints:
        checkpoints.tidy()
        assert int(checkpoints.restore(tiny_run.parts.like, 12).state.step) == 12
    assert saved_steps(tmp_path) == [12, 21]


def test_a_step_that_is_not_there_or_damaged_is_refused(tiny_run, tmp_path):
    like = tiny_run.parts.like
    with Checkpoints(tmp_path, 2) as checkpoints:
        save_steps(checkpoints, tiny_run.parts.initial(), (3, 6))
    shutil.rmtree(tmp_path / "checkpoints" / "3" / "meta")
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="no checkpoint of step 4 .* of steps 3, 6$"):
            checkpoints.restore(like, 4)
        with pytest.raises(ValueError, match="3 is damaged .*: name another --checkpoint"):
            checkpoints.restore(like, 3)
        assert int(checkpoints.restore(like).state.step) == 6


def test_lost_checkpoints_are_distinguished_from_none_saved(tiny_run, tmp_path):
    def all_lost():
        with Checkpoints(tmp_path) as checkpoints:
            return checkpoints.all_lost()

    with Checkpoints(tmp_path, 1) as checkpoints:
        assert not checkpoints.all_lost()
        checkpoints.save(tiny_run.parts.initial(), {})
        checkpoints.wait()
        assert not checkpoints.all_lost()
    assert not all_lost()
    (tmp_path / SAVED).unlink()  # as if a kill came between the save and the marker
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.tidy()
    shutil.rmtree(tmp_path / "checkpoints")
    assert all_lost()


def test_a_checkpoint_is_on_disk_before_it_gets_its_name(tiny_run, tmp_path, monkeypatch):
    """A power cut during or after a save leaves this checkpoint complete, or the one before."""
    flushed = []
    monkeypatch.setattr(checkpoint.files, "flush", flushed.append)
    with Checkpoints(tmp_path, 1) as checkpoints:
        for step in (1, 2):
            del flushed[:]
            save_steps(checkpoints, tiny_run.parts.initial(), [step])
            checkpoints.wait()
            folder = tmp_path / "checkpoints" / str(step)
            named = {path.relative_to(folder) for path in folder.rglob("*")}
            inside = len(folder.parts)
            # This one is empty and is written with the name; orbax does not need it to restore.
            assert {Path(*path.parts[inside:]) for path in flushed} >= named - {
                Path("commit_success.txt")
            }
            assert not any(folder in path.parents for path in flushed)


def test_reading_where_no_checkpoint_is_fails_and_creates_nothing(tiny_run, tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(ValueError) as raised:
            assert checkpoints.is_empty()
            checkpoints.restore(tiny_run.parts.like)
        assert str(raised.value).startswith(f"no checkpoint in {folder / 'checkpoints'}: ")
        assert len(str(raised.value).splitlines()) == 1
        assert not list(tmp_path.iterdir())


# A full disk.


def test_no_failed_save_counts_as_saved(tiny_run, tmp_path, fill_disk):
    """The second save raises the failure of the first; later waits raise none, yet nothing is saved."""
    state = tiny_run.parts.initial()
    with contextlib.suppress(OSError), Checkpoints(tmp_path, 2) as checkpoints:
        fill_disk()
        for step in (1, 2):
            with contextlib.suppress(OSError):
                save_steps(checkpoints, state, [step])
                time.sleep(0.5)
        for _ in range(2):
            with contextlib.suppress(OSError):
                checkpoints.wait()
        assert checkpoints.is_empty() and not checkpoints.all_lost()


def test_a_full_disk_is_one_line_and_earlier_checkpoints_are_intact(tiny_run, tmp_path, fill_disk):
    early = train(tiny_run, tmp_path, save_every=STEPS)
    with pytest.raises(OSError) as raised, Checkpoints(tmp_path, 1) as checkpoints:
        fill_disk()
        save_steps(checkpoints, early, [1])
        checkpoints.wait()
    message = str(raised.value)
    assert re.search(r"could not be written .*File too large.*; the earlier ones are", message)
    assert len(message.splitlines()) == 1
    assert bits(restore(tiny_run, tmp_path).state) == bits(early)


def test_check_raises_a_background_failure_before_the_next_save(tiny_run, tmp_path, fill_disk):
    message = ""
    # Leaving the context raises it too, which is not what is tested here.
    with contextlib.suppress(OSError), Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.check()
        fill_disk()
        save_steps(checkpoints, tiny_run.parts.initial(), [1])
        for _ in range(1000):
            time.sleep(0.01)
            try:
                checkpoints.check()
            except OSError as error:
                message = str(error)
                break
    assert "File too large" in message


@pytest.mark.stress
def test_a_run_resumes_bit_for_bit_after_a_full_disk(tiny_run, whole_run, tmp_path, fill_disk):
    def train_until(step, event, resume):
        data = BatchesWithEvent(tiny_run.episodes, step, event)
        train(tiny_run, tmp_path, save_every=8, data=data, resume=resume)

    with pytest.raises(Crash):
        train_until(9, crash, resume=False)
    with pytest.raises(OSError):
        train_until(12, fill_disk, resume=True)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert int(restore(tiny_run, tmp_path).state.step) == 8
    assert bits(train(tiny_run, tmp_path, save_every=8, resume=True)) == bits(whole_run[1])
