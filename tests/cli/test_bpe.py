"""A tokenizer that is trained on a corpus is one that texts can be cut by."""

import pytest

from sequencematch.cli import bpe
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.tasks import load_task
from sequencematch.setup.defaults import defaults

TEXT = "the cat sat on the mat; é𝄞 number 7. " * 3


@pytest.fixture
def corpus(tmp_path):
    for i in range(80):
        (tmp_path / f"{i}.txt").write_text(TEXT.replace("7", str(i)))
    return f"files:{tmp_path}/*.txt"


def test_it_gives_texts_back_and_cuts_them_into_windows(corpus, tmp_path, capsys):
    out = tmp_path / "bpe"
    call = [f"--out={out}", f"--corpus={corpus}", "--size=300"]
    assert bpe.main(call) == 0 and "has 300 ids" in capsys.readouterr().out
    tokenizer = read_tokenizer(out)
    for text in (TEXT, " a\n\n b", "☃"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    assert tokenizer.bos is not None and {tokenizer.bos, tokenizer.eos, tokenizer.pad}.isdisjoint(
        tokenizer.encode(TEXT)
    )
    data = defaults().data
    data.update(corpus=corpus, dir=str(tmp_path / "data"), tokenizer=str(out), window=16, prompt=4)
    task = load_task("text", data)
    assert len(task.splits["train"]) > 100
    assert task.tokenizer(("<bkspc>",)).fingerprint == tokenizer.fingerprint
    assert bpe.main(call) == 2 and "holds a tokenizer already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--size=100"], "--size=100 must be 259"),
        (["--corpus=files:/nowhere"], "matches no file"),
        (["--divider=^("], "config.data.divider='^(' must be a regular expression"),
        (["--test_share=2"], "config.data.test_share=2.0 must be in (0, 0.5]"),
        (["--out=/dev/null/bpe"], "--out=/dev/null/bpe must be a folder"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, capsys, flags, words):
    assert bpe.main([f"--out={tmp_path}/bpe", *flags]) == 2
    assert words in capsys.readouterr().err and not [*tmp_path.iterdir()]
