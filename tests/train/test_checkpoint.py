"""Checkpoints are what was saved, or are said not to be, and then the one before is."""

import contextlib
import ctypes
import errno
import json
import re
import resource
import shutil
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest
from orbax.checkpoint._src.serialization import serialization

from sequencematch.storage import checkpoint
from sequencematch.storage.checkpoint import SAVED, Checkpoints
from sequencematch.train.stop_requests import Interrupted, StopRequests
from tests.hindrances import no_more_files, nobody
from tests.train.runs import STEPS, At, Crash, ask, bits, crash, train


@pytest.fixture(scope="module")
def two(parts, tmp_path_factory):
    """(folder with two checkpoints, their steps); not to be changed."""
    folder = tmp_path_factory.mktemp("two")
    train(parts, folder, save_every=STEPS // 2)
    return folder, (STEPS // 2, STEPS)


def restored(parts, folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(parts.run.like)


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir())


def test_what_is_saved_is_not_what_training_makes_of_it(parts, tmp_path):
    run, plan, episodes, _ = parts
    state = run.initial()
    with Checkpoints(tmp_path, 1) as checkpoints:
        for i in range(3):
            batch = jax.device_put(episodes[i], plan.batch_sharding)
            if i == 1:
                before = bits(state)
                checkpoints.save(state, {"seconds": 4.5})
            state, _ = plan.phases[0].step(state, batch)
    found = restored(parts, tmp_path)
    assert (bits(found.state), found.facts, found.damaged) == (before, {"seconds": 4.5}, {})
    assert bits(state) != before
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), (found.state, run.like))
    assert shapes[0] == shapes[1]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="no glibc")
def test_what_was_freed_goes_back_to_the_system_after_a_save(parts, tmp_path):
    libc, size, process = ctypes.CDLL(None), 100_000, psutil.Process()
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    state = parts.run.initial()
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(state, {})  # the first save takes memory that later ones find there
        checkpoints.wait()
        # Those that stay lie between those that are freed: nothing is at the end, where glibc cuts.
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


def test_a_state_is_saved_once(parts, tmp_path):
    with Checkpoints(tmp_path, 2) as checkpoints:
        for seconds in (1.0, 2.0):
            checkpoints.save(parts.run.initial(), {"seconds": seconds})
    assert restored(parts, tmp_path).facts == {"seconds": 1.0}


@pytest.mark.parametrize(
    ("keep", "every", "left"),
    [(1, 0, [24]), (3, 0, [18, 21, 24]), (1, 6, [6, 12, 18, 24]), (2, 9, [9, 18, 21, 24])],
)
def test_the_newest_and_the_multiples_are_kept_and_reading_removes_none(
    parts, tmp_path, keep, every, left
):
    state = parts.run.initial()
    with Checkpoints(tmp_path, keep, every) as checkpoints:
        for step in range(3, STEPS + 1, 3):
            checkpoints.save(state._replace(step=state.step + step), {})
    for _ in range(2):
        assert steps(tmp_path) == left
        assert int(restored(parts, tmp_path).state.step) == STEPS


def test_what_could_not_be_saved_was_not(parts, tmp_path, full_disk):
    """The second save finds the failure of the first, and what waits at the end finds none."""
    state = parts.run.initial()
    with contextlib.suppress(OSError), Checkpoints(tmp_path, 2) as checkpoints:
        full_disk()
        for step in (1, 2):
            with contextlib.suppress(OSError):
                checkpoints.save(state._replace(step=state.step + step), {})
                time.sleep(0.5)
        for _ in range(2):
            with contextlib.suppress(OSError):
                checkpoints.wait()
        assert checkpoints.is_empty() and not checkpoints.all_lost()


def test_that_there_were_some_is_known_when_they_are_gone(parts, tmp_path):
    def lost():
        with Checkpoints(tmp_path) as checkpoints:
            return checkpoints.all_lost()

    with Checkpoints(tmp_path, 1) as checkpoints:
        assert not checkpoints.all_lost()
        checkpoints.save(parts.run.initial(), {})
        checkpoints.wait()
        assert not checkpoints.all_lost()
    assert not lost()
    (tmp_path / SAVED).unlink()  # a kill came after the save and before this
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.tidy()
    shutil.rmtree(tmp_path / "checkpoints")
    assert lost()


@pytest.mark.parametrize(
    ("keep", "every", "left"), [(1, 0, [24]), (2, 0, [21, 24]), (2, 12, [12, 21, 24])]
)
def test_what_a_kill_in_the_middle_of_a_removal_left_is_removed(parts, tmp_path, keep, every, left):
    state = parts.run.initial()
    with Checkpoints(tmp_path, 9) as checkpoints:
        for step in (12, 18, 21, 24):
            checkpoints.save(state._replace(step=state.step + step), {})
    remove(tmp_path / "checkpoints" / "18" / "meta")
    with Checkpoints(tmp_path, keep, every) as checkpoints:
        checkpoints.tidy()
    assert steps(tmp_path) == left


def test_a_checkpoint_is_on_disk_before_it_has_its_name(parts, tmp_path, monkeypatch):
    """So that a power cut after its save, or in it, leaves this one whole or the one before."""
    flushed = []
    monkeypatch.setattr(checkpoint.files, "flush", flushed.append)
    with Checkpoints(tmp_path, 1) as checkpoints:
        for step in (1, 2):
            del flushed[:]
            state = parts.run.initial()
            checkpoints.save(state._replace(step=state.step + step), {})
            checkpoints.wait()
            folder = tmp_path / "checkpoints" / str(step)
            named = {path.relative_to(folder) for path in folder.rglob("*")}
            inside = len(folder.parts)
            # That one is empty, and comes with the name; of two it is not asked for when restoring.
            assert {Path(*path.parts[inside:]) for path in flushed} >= named - {
                Path("commit_success.txt")
            }
            assert not any(folder in path.parents for path in flushed)


def test_no_checkpoint_is_said_and_nothing_is_made(parts, tmp_path):
    folder = tmp_path / "run"
    for _ in range(2):
        with Checkpoints(folder) as checkpoints, pytest.raises(ValueError) as raised:
            assert checkpoints.is_empty()
            checkpoints.restore(parts.run.like)
        assert str(raised.value).startswith(f"no checkpoint in {folder / 'checkpoints'}: ")
        assert len(str(raised.value).splitlines()) == 1
        assert not list(tmp_path.iterdir())


# Damage: the one before is taken, and the damage is said.


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path, at=-1):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def reprinted(path):
    """Another fingerprint of one array, as if other bits had been saved."""
    meta = json.loads(path.read_text())
    name = next(iter(meta["fingerprints"]))
    meta["fingerprints"][name] ^= 1
    path.write_text(json.dumps(meta))


def retimed(path):
    """JSON that orbax refuses to read, whenever it looks at all checkpoints, and not when at one."""
    path.write_text(json.dumps(json.loads(path.read_text()) | {"performance_metrics": "x"}))
    (path.parent / "state" / "manifest.ocdbt").unlink()


DAMAGES = {
    "another fingerprint": lambda folder: reprinted(folder / "meta" / "metadata"),
    "flipped data": lambda folder: [flip(p) for d in folder.rglob("d") for p in d.iterdir()],
    "no arrays": lambda folder: remove(folder / "state"),
    "no times": lambda folder: remove(folder / "meta"),
    "no time": lambda folder: remove(folder / "meta" / "metadata"),
    "half a time": lambda folder: halve(folder / "meta" / "metadata"),
    "no tree": lambda folder: remove(folder / "state" / "_METADATA"),
    "half a tree": lambda folder: halve(folder / "state" / "_METADATA"),
    "no index": lambda folder: remove(folder / "state" / "manifest.ocdbt"),
    "half an index": lambda folder: halve(folder / "state" / "manifest.ocdbt"),
    "no data": lambda folder: [remove(p) for p in folder.rglob("d") if p.is_dir()],
    "half the data": lambda folder: [halve(p) for d in folder.rglob("d") for p in d.iterdir()],
    "times of another kind": lambda folder: retimed(folder / "_CHECKPOINT_METADATA"),
    "nothing": lambda folder: [remove(p) for p in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_last_sound_one_is_found_when_the_newest_is_damaged(
    parts, two, tmp_path, damage, capfd
):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "checkpoints" / str(STEPS)
    DAMAGES[damage](folder)
    found = restored(parts, tmp_path)
    assert int(found.state.step) == STEPS // 2 and list(found.damaged) == [STEPS]
    assert found.damaged[STEPS].startswith(f"checkpoint {folder} is damaged")
    assert len(found.damaged[STEPS].splitlines()) == 1
    DAMAGES[damage](tmp_path / "checkpoints" / str(STEPS // 2))
    with pytest.raises(ValueError) as raised:
        restored(parts, tmp_path)
    assert str(folder) in str(raised.value) and "and so are the 1 before it" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("damage", [remove, halve, flip, lambda path: flip(path, 0)])
def test_whichever_file_is_damaged_what_is_restored_was_saved(
    parts, whole, tmp_path, damage, capfd
):
    source, refused = whole[0] / "checkpoints" / str(STEPS), 0
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for i, file in enumerate(files):
        folder = tmp_path / f"{i}" / "checkpoints" / str(STEPS)
        shutil.copytree(source, folder)
        damage(folder / file)
        try:
            assert bits(restored(parts, tmp_path / f"{i}").state) == bits(whole[1])
        except ValueError as error:
            assert f"{folder} is damaged" in str(error)
            refused += 1
    assert refused > 2
    assert "Traceback" not in capfd.readouterr().err


def test_what_is_damaged_is_set_aside_and_saved_anew(parts, whole, two, tmp_path):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    for times in (1, 2):
        DAMAGES["half the data"](tmp_path / "checkpoints" / str(STEPS))
        found = restored(parts, tmp_path)
        places = [checkpoint.set_aside(tmp_path, step) for step in found.damaged]
        with Checkpoints(tmp_path, 2) as checkpoints:
            assert [place.parent.name for place in places] == ["damaged"] and places[0].is_dir()
            checkpoints.save(whole[1], found.facts)
        assert steps(tmp_path) == [STEPS // 2, STEPS]
        assert bits(restored(parts, tmp_path).state) == bits(whole[1])
        assert len(list((tmp_path / "damaged").iterdir())) == times


def test_what_a_kill_left_in_the_middle_of_a_save_is_never_taken(parts, two, tmp_path):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    halfway = tmp_path / "checkpoints" / f"{STEPS + 1}.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / str(STEPS), halfway)
    found = restored(parts, tmp_path)
    assert int(found.state.step) == STEPS and found.damaged == {} and halfway.exists()
    with Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.save(found.state._replace(step=found.state.step + 1), {})
    assert steps(tmp_path) == [STEPS, STEPS + 1]


def test_a_checkpoint_under_another_name_is_not_taken_and_hides_none(parts, two, tmp_path):
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)
    (tmp_path / "checkpoints" / str(STEPS)).rename(tmp_path / "checkpoints" / "99")
    found = restored(parts, tmp_path)
    assert int(found.state.step) == STEPS // 2 and "it holds step" in found.damaged[99]
    with pytest.raises(OSError, match="has a later one"), Checkpoints(tmp_path, 9) as checkpoints:
        checkpoints.save(found.state._replace(step=found.state.step + 1), {})


@contextlib.contextmanager
def not_mine(folder):
    """Files that this process may not read."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0)
    try:
        with nobody():
            yield
    finally:
        for path in files:
            path.chmod(0o644)


@pytest.mark.parametrize(
    ("hindered", "what"),
    [
        (not_mine, f"checkpoint .*/{STEPS}"),
        (lambda folder: no_more_files(), "checkpoints in .*/checkpoints"),
    ],
)
def test_what_is_no_damage_is_not_called_so(parts, two, hindered, what):
    with tempfile.TemporaryDirectory() as name:  # which others may look into, unlike tmp_path
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(two[0], folder, dirs_exist_ok=True)
        folder.chmod(0o755)
        with (
            Checkpoints(folder) as checkpoints,
            hindered(folder / "checkpoints"),
            pytest.raises(OSError, match=f"{what} cannot be read .*try again"),
        ):
            checkpoints.restore(parts.run.like)
        assert restored(parts, folder).damaged == {}


@pytest.mark.parametrize(
    ("error", "elsewhere"),
    [
        (OSError(errno.EACCES, "x"), True),
        (OSError(errno.ESTALE, "x"), True),
        (TimeoutError("x"), True),
        (OSError(errno.EIO, "a bad sector"), False),
        (ValueError("Error reading: Stale file handle [a='b'] [os_error_code='116']"), True),
        (ValueError("Error reading: Connection timed out [os_error_code='110']"), True),
        (ValueError("Error reading: Input/output error [os_error_code='5']"), False),
        (FileNotFoundError(errno.ENOENT, "x"), False),
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (ValueError("RESOURCE_EXHAUSTED: x"), True),
        (ValueError("x"), False),
    ],
)
def test_want_of_means_is_told_from_damage(parts, two, monkeypatch, error, elsewhere):
    read = Checkpoints._read

    def failing(self, step, like):
        if step == STEPS:
            raise error
        return read(self, step, like)

    monkeypatch.setattr(Checkpoints, "_read", failing)
    if elsewhere:
        with pytest.raises(OSError, match="cannot be read .*try again"):
            restored(parts, two[0])
    else:
        assert list(restored(parts, two[0]).damaged) == [STEPS]


def test_a_checkpoint_that_training_removes_while_it_is_read_is_no_damage(
    parts, two, tmp_path, monkeypatch
):
    read, last = Checkpoints._read, restored(parts, two[0]).state
    shutil.copytree(two[0], tmp_path, dirs_exist_ok=True)

    def overtaken(self, step, like):
        if step == STEPS:
            with Checkpoints(tmp_path, 1) as training:
                training.save(last._replace(step=last.step + 1), {})
            assert steps(tmp_path) == [STEPS + 1]
        return read(self, step, like)

    monkeypatch.setattr(Checkpoints, "_read", overtaken)
    found = restored(parts, tmp_path)
    assert (int(found.state.step), found.damaged) == (STEPS + 1, {})


def test_a_request_to_leave_that_orbax_wraps_is_no_damage(parts, two, monkeypatch):
    async def asked(**_):
        ask()

    monkeypatch.setattr(serialization, "_read_shard", asked)
    with pytest.raises(Interrupted), StopRequests():
        restored(parts, two[0])


def test_a_checkpoint_of_another_model_is_one_line(parts, whole):
    def wider(x):
        return jax.ShapeDtypeStruct([n + 1 for n in x.shape], x.dtype, sharding=x.sharding)

    like = parts.run.like
    other = like._replace(params=jax.tree.map(wider, like.params))
    with Checkpoints(whole[0]) as checkpoints, pytest.raises(ValueError) as raised:
        checkpoints.restore(other)
    assert "of another model" in str(raised.value) and len(str(raised.value).splitlines()) == 1


# A disk that is full.


@pytest.fixture
def full_disk():
    """No file of this process can grow beyond a few bytes, once called; it can again afterwards."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_earlier_checkpoints_are_intact(parts, tmp_path, full_disk):
    early = train(parts, tmp_path, save_every=STEPS)
    with pytest.raises(OSError) as raised, Checkpoints(tmp_path, 1) as checkpoints:
        full_disk()
        checkpoints.save(early._replace(step=early.step + 1), {})
        checkpoints.wait()
    message = str(raised.value)
    assert re.search(r"could not be written .*File too large.*; the earlier ones are", message)
    assert len(message.splitlines()) == 1
    assert bits(restored(parts, tmp_path).state) == bits(early)


def test_a_save_that_fails_in_the_background_is_said_before_the_next(parts, tmp_path, full_disk):
    state, said = parts.run.initial(), ""
    # Leaving says it too: what counts is what was said before.
    with contextlib.suppress(OSError), Checkpoints(tmp_path, 2) as checkpoints:
        checkpoints.check()
        full_disk()
        checkpoints.save(state._replace(step=state.step + 1), {})
        for _ in range(1000):
            time.sleep(0.01)
            try:
                checkpoints.check()
            except OSError as error:
                said = str(error)
                break
    assert "File too large" in said


def test_after_a_full_disk_it_goes_on(parts, whole, tmp_path, full_disk):
    with pytest.raises(Crash):
        train(parts, tmp_path, save_every=8, data=At(parts.episodes, 9, crash))
    with pytest.raises(OSError):
        train(parts, tmp_path, save_every=8, data=At(parts.episodes, 12, full_disk), resume=True)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert int(restored(parts, tmp_path).state.step) == 8
    assert bits(train(parts, tmp_path, save_every=8, resume=True)) == bits(whole[1])
