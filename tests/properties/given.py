"""Strategies for hypothesis, and what an error message must look like."""

import string

from hypothesis import settings
from hypothesis import strategies as st


def examples(few: int, many: int) -> settings:
    """Settings with the number of inputs: few in `make test`, many in a fuzz run."""
    fuzzing = settings.get_current_profile_name() == "fuzz"
    return settings(max_examples=many if fuzzing else few)


def message_of(error: BaseException) -> str:
    """The message of an error, which must be one line that any terminal can show."""
    line = str(error)
    assert line and line.isprintable(), line
    return line


# Texts that tend to break terminals, lines, encodings, markup and tokenizers.
NASTY = (
    *("\0", "\x1b[2J", "\r\n", "\n", "\x85", "\u2028", "\ud800", "\udfff", "\u202e", "\ufeff"),
    *("e\u0301", "\U0001f468\u200d\U0001f469", "\u2067", "\uffff", "\U0010ffff", "ß", "İ"),
    *("<script>alert(1)</script>", "]]>", "&amp;", "'\"", "</code>", "$x_1$", "\\", "%s{0}"),
    *("<bkspc>", "<bkspc4>", "<eos>", "<pad>", "<reset>", "⌫", "--", "=", "../..", "~nobody"),
)
characters = st.characters() | st.sampled_from(string.printable)
# Any text that Python can hold, lone surrogates included.
texts = st.text(characters) | st.lists(st.sampled_from(NASTY) | characters).map("".join)
# Any text that a file can hold.
words = texts.map(lambda text: text.encode(errors="replace").decode())

numbers = st.integers() | st.floats() | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, -0.0])
atoms = st.none() | st.booleans() | numbers | words
# Any value that JSON can hold, and the numbers (NaN, infinities) that only Python's reader accepts.
values = st.recursive(
    atoms, lambda inner: st.lists(inner) | st.dictionaries(words, inner), max_leaves=8
)
