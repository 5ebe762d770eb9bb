"""Lines by index are the lines of the file, whatever is in it; what changes under us is no data."""

import gzip
import os
import pathlib
import re
from functools import partial

import pytest

from sequencematch.data.lines import Lines

CONTENT = b"\n\nfirst\n  \nsecond\r\n\xff third\n\n\nlast"
NUMBERS = [3, 5, 6, 9]


def scan(path, content):
    """The file, read once, and what was found then."""
    path.write_bytes(content)
    lines = Lines(path)
    return lines, list(lines.scan())


@pytest.fixture(params=["plain", "compressed"])
def lines_and_found(request, tmp_path):
    pack = gzip.compress if request.param == "compressed" else bytes
    return scan(tmp_path / "file.txt", pack(CONTENT))


def test_lines_are_read_in_any_order(lines_and_found):
    lines, found = lines_and_found
    texts = [b"first\n", b"second\r\n", b"\xff third\n", b"last"]
    assert found == list(zip(NUMBERS, texts, strict=True))
    assert len(lines) == 4
    for i in (3, 0, 2, 1, 0):
        assert lines[i] == found[i][1]
    assert [lines.place(i) for i in range(4)] == [f"{lines.path}:{n}" for n in NUMBERS]


def test_a_file_can_be_scanned_again(lines_and_found):
    lines, found = lines_and_found
    assert list(lines.scan()) == found and len(lines) == 4


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\n"])
def test_a_file_without_lines_is_empty(tmp_path, content):
    lines, found = scan(tmp_path / "file.txt", content)
    assert found == [] and len(lines) == 0


def test_only_where_lines_begin_is_kept(tmp_path):
    lines, _ = scan(tmp_path / "file.txt", b"x" * 10_000 + b"\n" + b"y\n" * 99)
    assert lines.nbytes == 101 * 8 + 100 * 4


def test_a_file_may_be_replaced_and_grow_while_it_is_in_use(tmp_path):
    lines, found = scan(tmp_path / "file.txt", CONTENT + b"\n")
    with lines.path.open("ab") as file:
        file.write(b"more\n")
    assert lines[3] == found[3][1]
    (tmp_path / "new").write_bytes(b"another")
    os.replace(tmp_path / "new", lines.path)
    assert [lines[i] for i in range(4)] == [line for _, line in found]


@pytest.mark.parametrize("content", [CONTENT.replace(b"first", b"other"), b"", b"\n" * 40])
def test_a_line_that_is_not_what_it_was_is_refused(tmp_path, content):
    lines, _ = scan(tmp_path / "file.txt", CONTENT)
    lines.path.write_bytes(content)
    with pytest.raises(OSError, match="file.txt has been changed while it was in use"):
        lines[0]


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:30] + b"\0" * 9 + b[39:]])
def test_a_damaged_compressed_file_is_named(tmp_path, damage):
    path = tmp_path / "file.gz"
    path.write_bytes(damage(gzip.compress(os.urandom(500))))
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: it is compressed, and damaged"):
        Lines(path)


def test_no_room_to_unpack_is_an_io_failure(tmp_path, monkeypatch):
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(CONTENT))
    full = partial(pathlib.Path("/dev/full").open, "wb")
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(OSError, match="No space left on device.*set TMPDIR"):
        Lines(path)
