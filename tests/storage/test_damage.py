"""A damaged checkpoint is found and the one before is restored; I/O failures are not called damage."""

import contextlib
import errno
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
from orbax.checkpoint._src.serialization import serialization

from sequencematch.storage import checkpoint_folder, files
from sequencematch.storage.checkpoint import Checkpoints
from sequencematch.train.stop_requests import Interrupted, StopRequests
from tests.marks import stress
from tests.storage.damages import DAMAGES, flip_bit, halve, remove
from tests.storage.folders import restore, saved_steps
from tests.storage.limits import no_file_handles, no_root_rights
from tests.train.runs import STEPS, bits, request_stop


@pytest.fixture
def copied_run(two_checkpoints, tmp_path):
    """A copy of a work directory with two checkpoints, to be changed."""
    return shutil.copytree(two_checkpoints, tmp_path, dirs_exist_ok=True)


SOME = ("flipped data", "no arrays", "half the facts")


@pytest.mark.parametrize("damage", [x if x in SOME else stress(x) for x in DAMAGES])
def test_the_newest_intact_checkpoint_is_restored(tiny_run, copied_run, damage, capfd):
    folder = copied_run / "checkpoints" / str(STEPS)
    DAMAGES[damage](folder)
    found = restore(tiny_run, copied_run)
    assert int(found.state.step) == STEPS // 2 and list(found.damaged) == [STEPS]
    assert found.damaged[STEPS].startswith(f"checkpoint {folder} is damaged")
    assert len(found.damaged[STEPS].splitlines()) == 1
    DAMAGES[damage](copied_run / "checkpoints" / str(STEPS // 2))
    with pytest.raises(ValueError) as raised:
        restore(tiny_run, copied_run)
    assert str(folder) in str(raised.value) and "and so are the 1 before it" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.stress
@pytest.mark.parametrize(
    "damage", [*map(stress, (remove, halve, lambda path: flip_bit(path, 0))), flip_bit]
)
def test_whichever_file_is_damaged_the_saved_state_is_restored_or_none(
    tiny_run, whole_run, tmp_path, damage, capfd
):
    source, refused = whole_run[0] / "checkpoints" / str(STEPS), 0
    files = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    for i, file in enumerate(files):
        folder = tmp_path / f"{i}" / "checkpoints" / str(STEPS)
        shutil.copytree(source, folder)
        damage(folder / file)
        try:
            assert bits(restore(tiny_run, tmp_path / f"{i}").state) == bits(whole_run[1])
        except ValueError as error:
            assert f"{folder} is damaged" in str(error)
            refused += 1
    assert refused > 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_damaged_checkpoint_is_set_aside_and_saved_again(tiny_run, whole_run, copied_run):
    for times in (1, 2):
        DAMAGES["half the data"](copied_run / "checkpoints" / str(STEPS))
        found = restore(tiny_run, copied_run)
        places = [checkpoint_folder.set_aside(copied_run, step) for step in found.damaged]
        with Checkpoints(copied_run, 2) as checkpoints:
            assert [place.parent.name for place in places] == ["damaged"] and places[0].is_dir()
            checkpoints.save(whole_run[1], found.facts)
        assert saved_steps(copied_run) == [STEPS // 2, STEPS]
        assert bits(restore(tiny_run, copied_run).state) == bits(whole_run[1])
        assert len(list((copied_run / "damaged").iterdir())) == times


def test_an_unfinished_save_is_never_restored(tiny_run, copied_run):
    halfway = copied_run / "checkpoints" / f"{STEPS + 1}.orbax-checkpoint-tmp"
    shutil.copytree(copied_run / "checkpoints" / str(STEPS), halfway)
    found = restore(tiny_run, copied_run)
    assert int(found.state.step) == STEPS and found.damaged == {} and halfway.exists()
    with Checkpoints(copied_run, 2) as checkpoints:
        checkpoints.save(found.state._replace(step=found.state.step + 1), {})
    assert saved_steps(copied_run) == [STEPS, STEPS + 1]


def test_a_renamed_checkpoint_is_not_restored_and_hides_none(tiny_run, copied_run):
    (copied_run / "checkpoints" / str(STEPS)).rename(copied_run / "checkpoints" / "99")
    found = restore(tiny_run, copied_run)
    assert int(found.state.step) == STEPS // 2 and "it holds step" in found.damaged[99]
    late = pytest.raises(OSError, match="has a later one")
    with late, Checkpoints(copied_run, 9) as checkpoints:
        checkpoints.save(found.state._replace(step=found.state.step + 1), {})


def test_a_checkpoint_of_another_model_is_reported_in_one_line(tiny_run, whole_run):
    def widen(x):
        return jax.ShapeDtypeStruct([n + 1 for n in x.shape], x.dtype, sharding=x.sharding)

    like = tiny_run.parts.like
    other = like._replace(params=jax.tree.map(widen, like.params))
    with Checkpoints(whole_run[0]) as checkpoints, pytest.raises(ValueError) as raised:
        checkpoints.restore(other)
    assert "of another model" in str(raised.value) and len(str(raised.value).splitlines()) == 1


# I/O failures.


@contextlib.contextmanager
def no_read_permission(folder):
    """Lets this process read no file in a folder for a while."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0)
    try:
        with no_root_rights():
            yield
    finally:
        for path in files:
            path.chmod(0o644)


@pytest.mark.parametrize(
    ("prevent_reading", "what"),
    [
        (no_read_permission, f"checkpoint .*/{STEPS}"),
        (lambda folder: no_file_handles(), "checkpoints in .*/checkpoints"),
    ],
)
def test_files_that_cannot_be_read_now_are_not_damaged(
    tiny_run, two_checkpoints, prevent_reading, what
):
    with tempfile.TemporaryDirectory() as name:  # other users may not enter tmp_path
        folder = Path(name)
        folder.chmod(0o755)
        shutil.copytree(two_checkpoints, folder, dirs_exist_ok=True)
        folder.chmod(0o755)
        with (
            Checkpoints(folder) as checkpoints,
            prevent_reading(folder / "checkpoints"),
            pytest.raises(OSError, match=f"{what} cannot be read .*try again"),
        ):
            checkpoints.restore(tiny_run.parts.like)
        assert restore(tiny_run, folder).damaged == {}


@pytest.mark.parametrize(
    ("error", "is_io_failure"),
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
def test_io_failures_are_distinguished_from_damage(
    tiny_run, two_checkpoints, monkeypatch, error, is_io_failure
):
    read = Checkpoints._read

    def fail_on_the_newest(self, step, like):
        if step == STEPS:
            raise error
        return read(self, step, like)

    monkeypatch.setattr(Checkpoints, "_read", fail_on_the_newest)
    if is_io_failure:
        with pytest.raises(OSError, match="cannot be read .*try again"):
            restore(tiny_run, two_checkpoints)
    else:
        assert list(restore(tiny_run, two_checkpoints).damaged) == [STEPS]


@pytest.mark.parametrize(("heard", "is_io_failure"), [([True, True], True), ([True, False], False)])
def test_all_processes_take_a_failure_for_what_the_first_does(monkeypatch, heard, is_io_failure):
    monkeypatch.setattr(checkpoint_folder, "is_first", lambda: False)
    monkeypatch.setattr(checkpoint_folder, "first_finds", lambda _: heard.pop(0))
    with pytest.raises(Exception, match="the first process cannot read it") as raised:
        checkpoint_folder.check_readable(Path("nowhere"))
    assert files.is_io_failure(raised.value) == is_io_failure and not heard


def test_a_checkpoint_that_training_removes_while_it_is_read_is_not_damaged(
    tiny_run, copied_run, monkeypatch
):
    read, last = Checkpoints._read, restore(tiny_run, copied_run).state

    def remove_before_reading(self, step, like):
        if step == STEPS:
            with Checkpoints(copied_run, 1) as training:
                training.save(last._replace(step=last.step + 1), {})
            assert saved_steps(copied_run) == [STEPS + 1]
        return read(self, step, like)

    monkeypatch.setattr(Checkpoints, "_read", remove_before_reading)
    found = restore(tiny_run, copied_run)
    assert (int(found.state.step), found.damaged) == (STEPS + 1, {})


def test_a_stop_request_that_orbax_wraps_is_not_damage(tiny_run, two_checkpoints, monkeypatch):
    async def interrupt(**_):
        request_stop()

    monkeypatch.setattr(serialization, "_read_shard", interrupt)
    with pytest.raises(Interrupted), StopRequests():
        restore(tiny_run, two_checkpoints)
