"""The reader of jsonl files on any bytes, and any text as an example, from file to prompt."""

import itertools
import json
import pathlib
from types import SimpleNamespace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sequencematch.data import jsonl
from sequencematch.data.episodes import encode_prompt
from sequencematch.data.tokenizer import CharTokenizer
from tests.properties.given import examples, message_of, texts, values, words

# Lines that are almost right: of the right keys, of the right type, deep, long, in another encoding.
records = st.dictionaries(st.sampled_from(["prompt", "completion", "x"]), texts | values)
lines = st.one_of(
    st.binary(),
    values.map(json.dumps).map(str.encode),
    records.map(json.dumps).map(str.encode),
    st.builds(
        lambda r, code: json.dumps(r).encode(code),
        records,
        st.sampled_from(["utf-16", "utf-8-sig"]),
    ),
    st.builds(
        lambda text, n: text.encode() * n, st.sampled_from("[{9"), st.sampled_from([9, 10**5])
    ),
)


ONE_FILE = {"validation_path": "", "test_path": "", "fields": "prompt", "seed": 0}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("data") / "questions.jsonl"


@examples(60, 2000)
@given(st.lists(lines, max_size=4))
def test_file_gives_examples_or_an_error_that_names_file_and_line(path, content):
    path.write_bytes(b"\n".join(content))
    try:
        file = jsonl.read(path, "prompt")
    except ValueError as error:
        assert message_of(error).startswith(f"{path}:")
        return
    objects = [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]
    found = [file.pair(i) for i in range(len(file.lines))]
    assert found == [(record["prompt"], record["completion"]) for record in objects]
    # What was read can be written: to traces.jsonl, to report.html, to a terminal.
    text = "".join(map("".join, found))
    assert text.encode().decode() == text


@examples(40, 1000)
@given(st.lists(st.tuples(words, words)), st.integers(0, 4), st.integers(0, 4), st.integers(0, 9))
def test_any_examples_are_split_by_prompt_or_too_few(path, pairs, validation, test, train):
    """All lines of one prompt fall into one split, whatever the texts: empty, equal, unprintable."""
    lines = [json.dumps(dict(zip(("prompt", "completion"), pair, strict=True))) for pair in pairs]
    path.write_text("\n".join(lines), encoding="utf-8")
    sizes = {"validation": validation, "test": test, "train": train}
    prompts = {" ".join(prompt.split()) for prompt, _ in pairs}
    try:
        task = jsonl.task(SimpleNamespace(path=str(path), **ONE_FILE, **sizes))
    except ValueError as error:
        if pairs and not any(completion for _, completion in pairs):
            assert f"all {len(pairs)} completions are empty" in message_of(error)
            return
        assert len(prompts) <= validation + test
        assert f"{len(prompts)} distinct prompts" in message_of(error)
        return
    prompts_of = {
        split: {" ".join(e.prompt.split()) for e in task.splits[split]} for split in sizes
    }
    assert [len(prompts_of["validation"]), len(prompts_of["test"])] == [validation, test]
    rest = len(prompts) - validation - test
    assert len(prompts_of["train"]) == min(train or rest, rest)
    assert sum(map(len, prompts_of.values())) == len(set.union(*prompts_of.values()))
    tokenizer = task.tokenizer(())
    for example in itertools.chain(*task.splits.values()):
        assert (example.prompt, example.completion) in pairs
        for text in (example.prompt, example.completion):
            assert tokenizer.decode(tokenizer.encode(text)) == text


@examples(60, 2000)
@given(texts, words, st.integers(2, 12))
def test_any_prompt_is_encoded_or_refused(prompt, alphabet, slots):
    tokenizer = CharTokenizer(alphabet)
    fits = set(prompt) <= set(alphabet) and len(prompt) < slots
    if not fits:
        with pytest.raises(ValueError) as raised:
            encode_prompt(tokenizer, prompt, slots)
        assert repr(prompt) in message_of(raised.value)
        return
    tokens, start = encode_prompt(tokenizer, prompt, slots)
    assert [tokens[0], *tokens[start + 1 :]] == [tokenizer.bos] + [tokenizer.pad] * (
        slots - 1 - start
    )
    assert tokenizer.decode(tokens) == prompt


@examples(40, 500)
@given(texts)
def test_any_path_without_a_file_is_refused(name):
    assume("\0" in name or not pathlib.Path(name).is_file())  # hypothesis finds some that are
    with pytest.raises(OSError) as raised:
        jsonl.task(SimpleNamespace(path=name, **ONE_FILE, train=1, validation=1, test=1))
    assert f"data.path={name!r} is no file" in message_of(raised.value)
