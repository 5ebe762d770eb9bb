"""What made a result is told, and what changed since."""

import subprocess

import sequencematch
from sequencematch import provenance


def repository(folder):
    """A git repository with one module, committed."""
    (folder / "code").mkdir()
    (folder / "code" / "module.py").write_text("x = 1\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "."], [*author, "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)


def test_the_revision_is_the_commit_and_says_if_files_were_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "code" / "module.py"))
    (tmp_path / "elsewhere").mkdir()
    repository(tmp_path)
    head = subprocess.run(
        ["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert provenance.revision() == head
    (tmp_path / "elsewhere" / "notes.txt").write_text("not code")
    assert provenance.revision() == head
    (tmp_path / "code" / "module.py").write_text("x = 2\n")
    changed = provenance.revision()
    assert changed.startswith(head + "+")
    (tmp_path / "code" / "module.py").write_text("x = 3\n")
    assert provenance.revision() not in (head, changed)


def test_there_is_none_without_git(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "code" / "module.py"))
    assert provenance.revision() is None
    (tmp_path / ".git").mkdir()
    assert provenance.revision() is None


def test_changes_are_named():
    now = provenance.provenance()
    assert now["versions"]["sequencematch"] == sequencematch.__version__
    assert provenance.changes(now, now) == []
    assert provenance.provenance() is now  # what is committed while it runs is not what runs
    versions = now["versions"] | {"jax": "0.1"}
    before = {"versions": versions, "revision": "abc"}
    jax = f"jax 0.1 -> {now['versions']['jax']}"
    assert provenance.changes(before, now) == [jax, f"revision abc -> {now['revision']}"]
    assert len(provenance.changes({}, now)) == len(versions) + 1
