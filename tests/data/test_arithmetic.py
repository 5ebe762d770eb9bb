import json
import multiprocessing
import pathlib
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tensorflow_datasets as tfds

from sequencematch.data import arithmetic, prepared
from tests.hindrances import no_more_files

tfds.disable_progress_bar()


def config(folder, **changes):
    defaults = {
        "dir": str(folder),
        "source": "generator",
        "module": "arithmetic__add_or_sub_in_base",
        "bases": (),
        "entropy": (1.0, 2.0),
        "train": 40,
        "validation": 10,
        "test": 20,
        "seed": 0,
    }
    return SimpleNamespace(**defaults | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def task(folder):
    return arithmetic.task(config(folder))


def contents(task):
    return {split: list(examples) for split, examples in task.splits.items()}


def test_splits_have_their_sizes_and_are_disjoint(task):
    splits = contents(task)
    assert {name: len(s) for name, s in splits.items()} == {
        "train": 40,
        "validation": 10,
        "test": 20,
    }
    assert len({example.prompt for split in splits.values() for example in split}) == 70


def test_alphabet_is_what_the_texts_are_made_of(task):
    texts = ["".join(example) for split in task.splits.values() for example in split]
    assert task.alphabet == "".join(sorted(set("".join(texts))))
    assert set(task.confusable) <= set("0123456789abcdef")


def test_confusable_are_the_digits_of_the_bases(tmp_path):
    task = arithmetic.task(config(tmp_path, bases=(3, 12), train=2, validation=1, test=1))
    assert task.confusable == "0123456789ab"


def test_an_answer_is_right_if_it_is_the_completion(task):
    example = task.splits["test"][0]
    assert task.check(example, example.completion)
    assert not task.check(example, example.completion + "0")


def test_held_out_questions_do_not_depend_on_the_training_size(task, folder):
    more = contents(arithmetic.task(config(folder, train=60)))
    fewer = contents(task)
    assert (more["test"], more["validation"]) == (fewer["test"], fewer["validation"])
    assert more["train"][:40] == fewer["train"]


def test_prepared_once(task, folder, monkeypatch):
    monkeypatch.setattr(
        arithmetic, "distinct_questions", lambda questions: pytest.fail("prepared again")
    )
    monkeypatch.setattr(arithmetic, "check", lambda questions: pytest.fail("probed again"))
    assert contents(arithmetic.task(config(folder))) == contents(task)


def test_preparing_gives_global_random_back(tmp_path):
    random.seed(3)
    expected = random.random()
    random.seed(3)
    arithmetic.task(config(tmp_path, train=2, validation=1, test=1))
    assert random.random() == expected


@pytest.mark.parametrize("damaged", ["*-train.array_record*", "dataset_info.json", "metadata.json"])
def test_a_damaged_cache_is_named_and_left_alone(tmp_path, damaged):
    arithmetic.task(config(tmp_path))
    (file,) = tmp_path.rglob(damaged)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    message = (
        f"^the data in {re.escape(str(file.parent))} cannot be read .*move this folder away.*$"
    )
    with pytest.raises(OSError, match=message):
        contents(arithmetic.task(config(tmp_path)))
    assert file.exists()


def test_examples_are_a_sequence(task):
    train = task.splits["train"]
    assert train[-1] == train[len(train) - 1]
    assert [train[i] for i in range(len(train))] == list(train)
    with pytest.raises(IndexError):
        train[len(train)]


def test_examples_beyond_those_kept_are_read_again(task, folder, monkeypatch):
    monkeypatch.setattr(prepared, "_KEPT", 3)
    again = arithmetic.task(config(folder))
    assert contents(again) == contents(again) == contents(task)
    assert len(again.splits["train"].kept) == 3


def test_what_stands_in_the_way_is_no_damage(tmp_path):
    """Too many open files are, and nobody is told to throw the data away."""
    arithmetic.task(config(tmp_path))
    with no_more_files(), pytest.raises(OSError, match="cannot be read .*mended, try again$"):
        contents(arithmetic.task(config(tmp_path)))
    assert len(contents(arithmetic.task(config(tmp_path)))["train"]) > 0


def test_want_of_memory_is_no_damage(task, folder, monkeypatch):
    def without(*_):
        raise MemoryError

    again = arithmetic.task(config(folder))
    monkeypatch.setattr(prepared.Records, "_read", without)
    with pytest.raises(MemoryError):
        again.splits["train"][0]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "web"}, "data.source='web': allowed are generator, tfds"),
        ({"source": "tfds", "bases": (10,)}, "every base: set data.bases to"),
        ({"source": "tfds", "module": "arithmetic__mull"}, "did you mean 'arithmetic__mul'"),
        ({"source": "tfds", "module": "arithmetic__mul"}, "needs TensorFlow"),
        ({"validation": 0}, "allowed are >= 1"),
        ({"bases": (40,)}, "allowed are 2 to 16"),
    ],
)
def test_impossible_parameters_are_refused_before_any_work(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arithmetic.task(config(tmp_path, **changes))
    assert not list(tmp_path.iterdir())


def test_a_set_that_tfds_has_no_code_for_is_not_opened(tmp_path, monkeypatch):
    """From files alone tfds imports whatever module they name."""
    (tmp_path / "payload.py").write_text("raise AssertionError('was run')")
    monkeypatch.syspath_prepend(tmp_path)
    files = tmp_path / "data" / "math_dataset" / "evil" / "1.0.0"
    files.mkdir(parents=True)
    info = {"name": "math_dataset", "configName": "evil", "version": "1.0.0"}
    (files / "dataset_info.json").write_text(json.dumps(info))
    (files / "features.json").write_text(json.dumps({"pythonClassName": "payload.Feature"}))
    data = config(tmp_path / "data", source="tfds", module="evil")
    assert arithmetic.is_prepared(data)
    with pytest.raises(ValueError, match="data.module='evil' does not exist"):
        arithmetic.task(data)


def test_what_is_kept_is_of_these_parameters(tmp_path):
    assert not arithmetic.is_prepared(config(tmp_path))
    arithmetic.task(config(tmp_path))
    assert arithmetic.is_prepared(config(tmp_path))
    for other in ({"train": 41}, {"seed": 1}, {"bases": (10,)}, {"source": "tfds"}):
        assert not arithmetic.is_prepared(config(tmp_path, **other))


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(self, **_):
        raise RuntimeError("Failed to write: No space left on device")  # as array_record does

    monkeypatch.setattr(arithmetic.Mathematics, "download_and_prepare", full)
    with pytest.raises(OSError, match=f"cannot be written to {tmp_path}.* .*No space left"):
        arithmetic.task(config(tmp_path))


def _prepare(folder):
    random.seed(0)
    return contents(arithmetic.task(config(folder)))


def test_two_processes_may_prepare_at_once(tmp_path, task):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(_prepare, [tmp_path, tmp_path], chunksize=1)
    assert results == [contents(task)] * 2


def test_what_a_killed_process_left_half_made_is_removed(tmp_path, task, monkeypatch):
    class Killed(BaseException):
        """As no clean-up of tfds would see it."""

    def killed(self, **_):
        half = pathlib.Path(self.data_dir).parent / "incomplete.ABCDEF_1.0.0"
        half.mkdir()
        (half / "mathematics-test.array_record").write_bytes(b"half")
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(arithmetic.Mathematics, "download_and_prepare", killed)
        arithmetic.task(config(tmp_path))
    assert list(tmp_path.rglob("incomplete*"))
    assert contents(arithmetic.task(config(tmp_path))) == contents(task)
    assert not list(tmp_path.rglob("incomplete*"))


def test_no_tensorflow(tmp_path):
    program = (
        "import sys, types; from sequencematch.data import arithmetic; "
        f"task = arithmetic.task(types.SimpleNamespace(**{vars(config(tmp_path))!r})); "
        "task.splits['test'][0]; sys.exit('tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
