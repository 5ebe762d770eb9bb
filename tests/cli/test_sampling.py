"""The printed answer of --mode=sample."""

from types import SimpleNamespace

from sequencematch.cli import sampling
from sequencematch.core import mdp
from sequencematch.data.tokenizer import CharTokenizer


def test_terminal_shows_deleted_tokens_struck_through():
    tokenizer = CharTokenizer("ab", ("<bkspc>", "<bkspc2>"))
    decisions = mdp.make(tokenizer.vocab_size, eos=2, pad=0, never=[1], edits=tokenizer.pops)
    parts = SimpleNamespace(tokenizer=tokenizer, recipe=SimpleNamespace(mdp=decisions))
    text = sampling.strike_deleted(
        parts, "?", tokenizer.parse([*"ab", "<bkspc2>", "b", "<bkspc>", "a", "<eos>"])
    )
    assert text.plain == "? ab⌫2b⌫a<eos>"
    struck = [text.plain[s.start : s.end] for s in text.spans if s.style == "red strike"]
    assert struck == ["a", "b", "b"]
