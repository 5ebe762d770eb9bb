"""Running text as a task: corpora, splits by document, files that are whole or not there."""

import errno
import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from sequencematch.data import corpora, shards, text
from sequencematch.data.survey import survey_examples
from sequencematch.data.tasks import load_task
from sequencematch.setup.defaults import defaults
from tests.data import tokenizer_folders

WORDS = ["the", "cat", "sat", "on", "that", "mat", "and", "saw", "a", "rat"]
DOCUMENTS = [f"{WORDS[i % 10]} {WORDS[i // 10 % 10]} {i} " * (1 + i % 9) for i in range(120)]


@pytest.fixture
def data(tmp_path):
    """The `data` section, for a folder of 120 documents."""
    for i, document in enumerate(DOCUMENTS):
        (tmp_path / f"{i:03}.txt").write_text(document + "\n")
    found = defaults().data
    found.update(dir=str(tmp_path / "prepared"), corpus=f"files:{tmp_path}/*.txt")
    found.update(window=16, prompt=4, train=0, test=0, validation=0)
    return found


def examples(task):
    return {
        split: [windows[i] for i in range(len(windows))] for split, windows in task.splits.items()
    }


def test_splits_have_whole_documents_and_all_of_training_ones(data):
    task = load_task("text", data)
    found = examples(task)
    learnt, begun = [], ""
    for window in found["train"]:
        begun += window.completion
        if not window.cut:
            learnt, begun = [*learnt, begun], ""
    held_out = {document.strip() for document in DOCUMENTS} - {*learnt}
    assert len(learnt) + len(held_out) == len(DOCUMENTS) and not begun
    asked = [x.prompt + x.completion for split in ("test", "validation") for x in found[split]]
    asking = [document for document in held_out if any(map(document.startswith, asked))]
    assert len(asking) == len(held_out) - task.facts["short_documents"]
    assert all(any(x in document for document in held_out) for x in asked)
    assert len(asked) > 2 * len(asking)
    assert len(found["test"]) > len(found["validation"]) > 0
    assert task.facts["documents"] == 120 and task.judged_by == "overlap"
    assert found == examples(load_task("text", data))  # read again, not made again


def survey_of(data, edits=("<bkspc>",)):
    task = load_task("text", data)
    return survey_examples(task, task.tokenizer(edits))


def same(one, other):
    return all(
        np.array_equal(a, b) for split in one for a, b in zip(one[split], other[split], strict=True)
    )


def test_windows_are_surveyed_once_for_a_tokenizer(data, monkeypatch):
    first = survey_of(data)
    data.train = 20
    few = survey_of(data)
    assert few["train"].checksum != first["train"].checksum and len(few["train"].prompts) == 20
    own = survey_of(data, ())
    with monkeypatch.context() as patch:
        patch.setattr(shards.Windows, "__getitem__", None)  # nothing is read again
        assert same(survey_of(data), few) and same(survey_of(data, ()), own)
        data.train = 0
        assert same(survey_of(data), first)
    assert not same(own, few)


def test_what_is_kept_of_windows_is_whole_or_not_there(data, monkeypatch, capsys):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fail)
        first = survey_of(data)
    assert "cannot be written (No space left on device)" in capsys.readouterr().err
    (folder,) = (Path(data.dir) / "text").glob("*-window16-*")
    assert not [*folder.glob("found-*")]
    assert same(survey_of(data), first)
    kept = [*folder.glob("found-*")]
    assert len(kept) == 3
    kept[0].write_bytes(b"half")
    with pytest.raises(OSError, match="move this folder away, and it will be prepared again"):
        survey_of(data)


def test_where_files_are_read_only_what_is_found_is_not_kept(data, monkeypatch, capsys):
    """Such file systems refuse to remove a file that is not there, too."""
    first = survey_of(data)
    (folder,) = (Path(data.dir) / "text").glob("*-window16-*")
    for path in folder.glob("found-*"):
        path.unlink()

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(np, "savez", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert same(survey_of(data), first)
    assert "cannot be written (Read-only file system)" in capsys.readouterr().err


def test_more_documents_may_be_asked_about(data):
    few = {split: len(found) for split, found in examples(load_task("text", data)).items()}
    data.test_share = 0.4
    many = {split: len(found) for split, found in examples(load_task("text", data)).items()}
    assert many["test"] > 2 * few["test"] and many["validation"] > 2 * few["validation"]
    assert many["train"] < few["train"] / 2 + 40


def test_equal_documents_are_one(data, tmp_path):
    (tmp_path / "again.txt").write_text(DOCUMENTS[7].upper().replace(" ", "\n\n"))
    assert load_task("text", data).facts["repeated_documents"] == 1


def test_a_split_by_document_does_not_depend_on_the_other_documents(data, tmp_path):
    before = examples(load_task("text", data))
    for i in range(60):
        (tmp_path / f"{i:03}.txt").unlink()
    after = examples(load_task("text", data))
    for split, found in after.items():
        assert not Counter((x.prompt, x.completion) for x in found) - Counter(
            (x.prompt, x.completion) for x in before[split]
        )


def test_sizes_draw_from_all_of_a_split(data):
    whole = examples(load_task("text", data))["train"]
    data.train = 20
    some = examples(load_task("text", data))["train"]
    assert len(some) == 20 and not Counter(some) - Counter(whole) and some != whole[:20]


def test_files_are_cut_where_a_document_begins(data, tmp_path):
    path = tmp_path / "all.text"
    path.write_text(
        "\ufeff" + "".join(f"= {i} =\n{document}\n" for i, document in enumerate(DOCUMENTS))
    )
    data.update(corpus=f"files:{path}", divider="^= [0-9]+ =$")
    found = [*corpora.find_corpus(data).documents()]
    assert found == [f"= {i} =\n{document.strip()}" for i, document in enumerate(DOCUMENTS)]


def test_a_divider_may_have_any_character(data, tmp_path):
    path = tmp_path / "all.text"
    path.write_text("\u2014 one\n\u2013 two\n- three\n\u2014 four\n", encoding="utf-8")
    data.update(corpus=f"files:{path}", divider="^(\u2014|\u2013) |^\\[\u2014")
    found = [*corpora.find_corpus(data).documents()]
    assert found == ["\u2014 one", "\u2013 two\n- three", "\u2014 four"]


@pytest.mark.parametrize("divider", ["^[\u2014\u2013] ", "^\u2014? ", "^[a\u2014]"])
def test_a_divider_that_means_something_else_in_bytes_is_refused(data, divider):
    data.divider = divider
    with pytest.raises(ValueError, match=r"is matched with bytes: beyond ASCII write \(a\|b\)"):
        load_task("text", data)


def test_a_document_that_would_fill_the_memory_is_refused(data, tmp_path, monkeypatch):
    path = tmp_path / "all.text"
    path.write_text("= 1 =\nshort\n= 2 =\n" + "long " * 10)
    monkeypatch.setattr(corpora, "LONGEST", 40)
    for divider, begin in (("^= ", 12), ("", 0)):
        data.update(corpus=f"files:{path}", divider=divider)
        with pytest.raises(ValueError, match=f"all.text has a document of .* from byte {begin},"):
            list(corpora.find_corpus(data).documents())


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines_have_a_text_each(data, tmp_path, packed):
    lines = "".join(json.dumps({"text": x, "id": 1}) + "\n" for x in DOCUMENTS).encode()
    path = tmp_path / ("all.jsonl" + ".gz" * packed)
    path.write_bytes(gzip.compress(lines) if packed else lines)
    data.corpus = f"files:{path}"
    found = [*corpora.find_corpus(data).documents()]
    assert found == [document.strip() for document in DOCUMENTS]


def test_the_library_gives_its_docstrings(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""One."""\ndef f():\n    """Two.\n\n      Three."""\nclass C: pass\n'
    )
    (tmp_path / "b.py").write_text("def f(:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "c.py").write_text('"""Left out."""')
    assert [*corpora.docstrings(tmp_path)] == ["One.", "Two.\n\nThree."]


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Documents as tensorflow-datasets keeps them."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
        )

    def _split_generators(self, dl_manager):
        return {"train": enumerate(self._records()), "other": enumerate([{"text": "other"}])}

    def _generate_examples(self):
        raise NotImplementedError

    def _records(self):
        return [{"text": x} for x in DOCUMENTS[:5]]


def test_a_prepared_data_set_is_read_by_name(data):
    Tiny(data_dir=data.dir).download_and_prepare(file_format="array_record")
    data.corpus = "tfds:tiny"
    found = {*corpora.find_corpus(data).documents()}
    assert found == {document.strip() for document in DOCUMENTS[:5]}
    data.corpus = "tfds:tiny/other"
    assert [*corpora.find_corpus(data).documents()] == ["other"]
    data.corpus = "tfds:tiny/valid"
    with pytest.raises(ValueError, match="no such data set, or split, .*: it has train, other"):
        corpora.find_corpus(data)


def test_another_version_of_a_data_set_is_another_corpus(data, monkeypatch):
    data.corpus = "tfds:tiny"
    identities = []
    for version in ("1.0.0", "2.0.0"):
        monkeypatch.setattr(Tiny, "VERSION", tfds.core.Version(version))
        Tiny(data_dir=data.dir).download_and_prepare(file_format="array_record")
        identities.append(corpora.find_corpus(data).identity)
    assert identities[0] != identities[1]


def test_windows_may_cross_documents_and_old_files_stay(data, tmp_path):
    apart = examples(load_task("text", data))
    (folder,) = tmp_path.glob("prepared/text/*-window*")
    data.separator = "\n"
    task = load_task("text", data)
    found = examples(task)
    learnt = "".join(x.completion for x in found["train"]).split("\n")
    before = "".join(x.completion + "\n" * (not x.cut) for x in apart["train"]).split("\n")
    assert learnt == before[:-1] and "\n" in task.tokenizer(()).alphabet
    assert all(len(x.completion) == 16 for x in found["train"][:-1])
    assert all(x.cut for split in found.values() for x in split)
    for split in ("test", "validation"):
        ends = [x.completion + "\n" * (not x.cut) for x in apart[split]]
        assert [x.completion for x in found[split]] == ends
    assert folder.is_dir() and folder not in {task.splits["train"].folder}


def test_documents_that_spell_a_special_token_are_left_out(data, tmp_path):
    data.tokenizer = str(tokenizer_folders.byte_level(tmp_path / "subwords"))
    (tmp_path / "other.txt").write_text("call it with <start> to " + DOCUMENTS[30])
    task = load_task("text", data)
    assert task.facts["special_documents"] == 1
    assert not any("<start>" in x.completion for x in task.splits["train"])


def test_documents_with_characters_that_have_no_ids_are_left_out(data, tmp_path):
    """They would be refused by whatever reads the windows, after all of them are written."""
    known = [chr(c) for c in range(33, 127)] + ["Ġ", "Ċ"]
    data.tokenizer = str(tokenizer_folders.byte_level(tmp_path / "subwords", alphabet=known))
    (tmp_path / "other.txt").write_text("a café. " + DOCUMENTS[30])
    task = load_task("text", data)
    assert task.facts["foreign_documents"] == 1 and not task.facts["special_documents"]
    assert survey_examples(task, task.tokenizer(()))["train"].answers.size


@pytest.mark.parametrize("kind", ["words", "pieces"])
def test_documents_with_unknown_tokens_are_left_out(data, tmp_path, kind):
    """A special token stands for them, which is none of a text."""
    folder = getattr(tokenizer_folders, kind)(tmp_path / "subwords", DOCUMENTS)
    data.tokenizer = str(folder)
    (tmp_path / "other.txt").write_text("a café. " + DOCUMENTS[30])
    task = load_task("text", data)
    assert task.facts["foreign_documents"] == 1
    tokenizer = task.tokenizer(())
    assert survey_examples(task, tokenizer)["train"].answers.size
    with pytest.raises(ValueError, match=r"^the model has no ids for \['[caf]*é'\] of 'a café'$"):
        tokenizer.encode("a café")


@pytest.mark.parametrize("separator", ["", ","])
def test_where_a_space_is_written_first_prompts_inside_a_document_begin_with_words(
    data, tmp_path, separator
):
    data.update(tokenizer=str(tokenizer_folders.sentence_piece(tmp_path / "pieces")), prompt=9)
    data.separator = separator
    known, inside = [document.strip() for document in DOCUMENTS], 0
    for found in examples(load_task("text", data)).values():
        for each in found:
            assert not each.prompt.startswith(" ")
            whole = f" {each.prompt}{each.completion}"
            inside += any(whole in document for document in known)
    assert inside > 20


def test_a_tokenizer_without_bos_has_no_empty_prompt(data, tmp_path):
    data.tokenizer = str(tokenizer_folders.byte_level(tmp_path / "subwords"))
    task = load_task("text", data)
    assert task.tokenizer(()).bos is None
    assert all(x.prompt for split in examples(task).values() for x in split)
    data.prompt = 0
    with pytest.raises(ValueError, match="data.prompt=0 needs a tokenizer with <bos>"):
        load_task("text", data)


@pytest.mark.parametrize(
    ("tokenizer", "separator", "words"),
    [
        ("characters", "<eos>", "must be one ordinary token of characters: it is '<', 'e', 'o'"),
        ("bytes", "é", "of bytes: it is '<0xC3>', '<0xA9>'"),
        ("subwords", "<end>", "and not <eos>, which ends an episode"),
        ("subwords", "<start>", "ordinary token of .*: it is '<start>'"),
        ("subwords", "t", "between texts too: there it is joined with them"),
    ],
)
def test_a_separator_is_one_ordinary_token(data, tmp_path, tokenizer, separator, words):
    if tokenizer == "subwords":
        tokenizer = str(tokenizer_folders.byte_level(tmp_path / "subwords"))
    data.update(tokenizer=tokenizer, separator=separator)
    with pytest.raises(ValueError, match=words) as error:
        load_task("text", data)
    assert "\n" not in str(error.value) and not [*tmp_path.glob("prepared/text/*/*")]


REFUSED = {
    "no corpus": (dict(corpus="web"), "must be stdlib, files:GLOB or tfds:NAME"),
    "no file": (dict(corpus="files:/nowhere/*"), "matches no file"),
    "no tokenizer": (dict(tokenizer="words"), "must be characters, bytes, or a folder"),
    "no data set": (dict(corpus="tfds:nothing/train"), "no such data set, or split, prepared in"),
    "too long prompts": (
        dict(prompt=5000),
        "^data.corpus='files:.*' gives no example for test and validation.*no longer than a prompt",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_and_leaves_nothing(data, case, tmp_path):
    changes, words = REFUSED[case]
    data.update(changes)
    with pytest.raises(ValueError, match=words) as error:
        load_task("text", data)
    assert "\n" not in str(error.value)
    assert not [*tmp_path.glob("prepared/text/*/*")]


def test_what_is_prepared_can_be_read_by_whom_the_umask_allows(data, tmp_path):
    before = os.umask(0o022)
    try:
        load_task("text", data)
    finally:
        os.umask(before)
    (folder,) = (tmp_path / "prepared" / "text").glob("*-window*")
    assert {oct(path.stat().st_mode & 0o777) for path in (folder, *folder.glob("*.json"))} == {
        "0o755",
        "0o644",
    }


@pytest.mark.parametrize("divider", ["", "^b"])
def test_a_wrong_byte_is_named_by_file_and_place(data, tmp_path, divider):
    path = tmp_path / "050.txt"
    path.write_bytes(b"abc\nb\xff\nb\nb")
    data.divider = divider
    with pytest.raises(ValueError, match=f"{path} is not UTF-8: byte 5 is 0xff"):
        load_task("text", data)
    path.write_text("")
    for other in tmp_path.glob("*.txt"):
        other.write_text(" \n")
    with pytest.raises(ValueError, match="is empty: there is no text in it"):
        load_task("text", data)


@pytest.mark.parametrize("damaged", ["{}", "x"])
def test_counts_that_cannot_be_read_are_said_with_their_folder(data, tmp_path, damaged):
    load_task("text", data)
    (facts,) = tmp_path.glob("prepared/text/*/facts.json")
    facts.write_text(damaged)
    with pytest.raises(OSError, match="cannot be read .*: move this folder away"):
        load_task("text", data)


def test_a_wrong_byte_in_a_line_is_named_by_its_place(data, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    data.corpus = f"files:{path}"
    with pytest.raises(ValueError, match=f"^{path}:2 is not UTF-8: byte 10 is 0xff"):
        load_task("text", data)


@pytest.mark.parametrize("line", ['{"txt": "a"}', '["a"]', '{"text": 1}', '{"text": "\\ud800"}'])
def test_a_line_without_a_text_is_named_in_words(data, tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a"}}\n{line}\n')
    data.corpus = f"files:{path}"
    with pytest.raises(ValueError, match=f'{path}:2: expected {{"text": "..."}} in UTF-8') as error:
        load_task("text", data)
    assert "NoneType" not in str(error.value) and "object" not in str(error.value)


def test_a_full_disk_leaves_nothing_that_could_be_taken_for_complete(data, monkeypatch, tmp_path):
    class Full:
        def __init__(self, *_):
            pass

        def write(self, _):
            raise RuntimeError("No space left on device")

    whole = shards.ArrayRecordWriter
    monkeypatch.setattr(shards, "ArrayRecordWriter", Full)
    with pytest.raises(OSError, match="cannot be written to .*No space left"):
        load_task("text", data)
    assert not text.is_prepared(data)
    assert [x.name for x in tmp_path.glob("prepared/text/*")] == ["lock"]
    monkeypatch.setattr(shards, "ArrayRecordWriter", whole)
    load_task("text", data)
    assert text.is_prepared(data)


def test_damaged_files_are_refused(data, tmp_path):
    load_task("text", data)
    (path,) = tmp_path.glob("prepared/text/*/train-*")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(OSError, match="move this folder away"):
        examples(load_task("text", data))


def test_records_hold_all_of_a_window():
    for example in (shards.Example("é", "𝄞", cut=True), shards.Example("", "")):
        assert shards.unpack(shards.pack(example)) == example


def test_many_windows_are_written_to_several_files(data, monkeypatch):
    whole = examples(load_task("text", data))
    monkeypatch.setattr(shards, "_SHARD", 300)
    data.dir += "2"
    task = load_task("text", data)
    assert examples(task) == whole
    assert len([*task.splits["train"].folder.glob("train-*")]) > 5
