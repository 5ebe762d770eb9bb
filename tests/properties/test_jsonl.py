"""The reader of questions, on any bytes; and any text as a question, from the file to the prompt."""

import itertools
import json
import pathlib
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sequencematch.data import jsonl
from sequencematch.data.episodes import encode_prompt
from sequencematch.data.task import Example
from sequencematch.data.tokenizer import BOS, PAD, CharTokenizer
from tests.properties.given import examples, said, texts, values, words

# Lines that are nearly right: of the right keys, of the right kind, deep, long, in another encoding.
nearly = st.dictionaries(st.sampled_from(["prompt", "completion", "x"]), texts | values)
lines = st.one_of(
    st.binary(),
    values.map(json.dumps).map(str.encode),
    nearly.map(json.dumps).map(str.encode),
    st.builds(
        lambda r, code: json.dumps(r).encode(code), nearly, st.sampled_from(["utf-16", "utf-8-sig"])
    ),
    st.builds(
        lambda text, n: text.encode() * n, st.sampled_from("[{9"), st.sampled_from([9, 10**5])
    ),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "questions.jsonl"


@examples(60, 2000)
@given(st.lists(lines, max_size=4))
def test_a_file_is_examples_or_a_line_that_names_file_and_line(path, content):
    path.write_bytes(b"\n".join(content))
    try:
        found = jsonl.read(path)
    except ValueError as error:
        assert said(error).startswith(f"{path}:")
        return
    records = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    assert [example._asdict() for example in found] == [
        {key: record[key] for key in Example._fields} for record in records
    ]
    # What was read can be written: to traces.jsonl, to report.html, to a terminal.
    text = "".join(itertools.chain(*found))
    assert text.encode().decode() == text


@examples(40, 1000)
@given(st.lists(st.tuples(words, words)), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))
def test_any_questions_are_split_or_too_few(path, pairs, validation, test, train):
    """All lines of one prompt fall into one split, whatever the texts: empty, equal, unprintable."""
    records = [dict(zip(Example._fields, pair, strict=True)) for pair in pairs]
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    sizes = {"validation": validation, "test": test, "train": train}
    prompts = {prompt for prompt, _ in pairs}
    try:
        task = jsonl.task(SimpleNamespace(path=str(path), seed=0, **sizes))
    except ValueError as error:
        assert len(prompts) <= validation + test
        assert f"{len(prompts)} distinct prompts" in said(error)
        return
    held = {split: {e.prompt for e in task.splits[split]} for split in sizes}
    assert [len(held["validation"]), len(held["test"])] == [validation, test]
    assert len(held["train"]) == min(train, len(prompts) - validation - test)
    assert sum(map(len, held.values())) == len(set.union(*held.values()))
    tokenizer = CharTokenizer(task.alphabet)
    for example in itertools.chain(*task.splits.values()):
        assert (example.prompt, example.completion) in pairs
        assert tokenizer.decode(tokenizer.encode("".join(example))) == "".join(example)


@examples(60, 2000)
@given(texts, words, st.integers(2, 12))
def test_any_prompt_is_encoded_or_refused(prompt, alphabet, slots):
    tokenizer = CharTokenizer(alphabet)
    fits = set(prompt) <= set(alphabet) and len(prompt) < slots
    if not fits:
        with pytest.raises(ValueError) as raised:
            encode_prompt(tokenizer, prompt, slots)
        assert repr(prompt) in said(raised.value)
        return
    tokens, start = encode_prompt(tokenizer, prompt, slots)
    assert [tokens[0], *tokens[start + 1 :]] == [BOS] + [PAD] * (slots - 1 - start)
    assert tokenizer.decode(tokens) == prompt


@examples(40, 500)
@given(texts)
def test_any_name_of_a_file_is_a_file_or_none(name):
    assume("\0" in name or not pathlib.Path(name).is_file())  # hypothesis knows some
    with pytest.raises(OSError) as raised:
        jsonl.task(SimpleNamespace(path=name, seed=0, train=1, validation=1, test=1))
    assert f"data.path={name!r} is no file" in said(raised.value)
