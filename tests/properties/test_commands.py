"""Any command line, configuration file and work directory gives help, or one line and exit code 2."""

import contextlib
import io
import json
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequencematch.main import main
from sequencematch.setup.defaults import defaults, flatten
from tests.properties.given import NASTY, examples, texts, values

ROOT = pathlib.Path(__file__).parents[2]
# Its data.path is empty, so that every run is refused before it starts, whatever else is right.
FILE = ROOT / "configs" / "jsonl.py"
KEYS = sorted(flatten(defaults()))


@pytest.fixture(scope="module")
def empty_folder(tmp_path_factory):
    """An empty folder, which is the current one during the tests."""
    folder = tmp_path_factory.mktemp("here")
    with contextlib.chdir(folder):
        yield folder


def contents(folder):
    """Path -> content of every file in the folder, None for folders."""
    paths = sorted(folder.rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def assert_refused(folder, *argv):
    """Asserts that a command is refused, or prints help, and changes nothing; returns the line."""
    before, out, err = contents(folder), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["main.py", *argv])
    assert contents(folder) == before
    if code == 0:
        assert "--workdir" in out.getvalue() and not err.getvalue()
        assert any("help" in arg for arg in argv)
        return ""
    line = err.getvalue()
    assert (code, out.getvalue()) == (2, "")
    assert line.startswith("sequencematch: ") and line.endswith("\n") and line[:-1].isprintable()
    return line


names = st.sampled_from(
    ["mode", "workdir", "resume", "noresume", "prompt", "help", "config", "flagfile", "undefok"]
) | st.sampled_from(KEYS).map("config.{}".format)
odd = texts | st.sampled_from(
    [*NASTY, "train", "evaluate", "sample", "0", "-1", "1e999", "nan", "None", "True", "()", "(1,"]
    + ["bc", "chi2", "9" * 5000, "a" * 5000, str(FILE), f"{FILE}:mle", f"{FILE}:", "/", "..", "."]
)
flags = st.one_of(
    st.builds("--{}={}".format, names, odd),
    st.builds("-{}={}".format, names, odd),
    st.builds("--{}".format, names | odd),
    st.builds("--config={}{}".format, st.just(FILE), st.sampled_from(["", ":mle", ":bc", ":x"])),
    odd,
)


@examples(60, 2000)
@given(st.lists(flags, max_size=6))
def test_any_command_line_prints_help_or_is_refused(empty_folder, argv):
    assert_refused(empty_folder, *argv)


@examples(30, 500)
@given(st.sampled_from(KEYS), odd)
def test_any_value_of_any_key_is_accepted_or_refused(empty_folder, key, value):
    line = assert_refused(empty_folder, f"--config={FILE}", f"--config.{key}={value}")
    # If the value is accepted, the run is refused for its data.path instead.
    assert key in line or "data.path='' is no file" in line or f"{FILE}:1: " in line


@examples(20, 400)
@given(st.binary() | texts.map(lambda text: text.encode(errors="replace")))
def test_any_file_as_a_configuration_is_refused(empty_folder, tmp_path_factory, content):
    file = tmp_path_factory.mktemp("configs") / "any.py"
    file.write_bytes(b"raise SystemExit(0)\n" * (len(content) % 2) + content)
    assert_refused(empty_folder, f"--config={file}", "--workdir=new")


records = values | st.fixed_dictionaries(
    {"name": values, "config": values | st.dictionaries(st.sampled_from(KEYS), values)}
)


@examples(30, 800)
@given(
    st.binary() | records.map(json.dumps).map(str.encode) | st.just(b"[" * 10**5),
    st.sampled_from(["--resume", "--mode=evaluate", "--mode=sample"]),
)
def test_any_config_json_is_refused(empty_folder, tmp_path_factory, content, mode):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "config.json").write_bytes(content)
    assert_refused(empty_folder, f"--workdir={folder}", mode, "--prompt=a")
    assert [path.name for path in folder.iterdir()] == ["config.json"]
