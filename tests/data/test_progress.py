"""Long work says how far it is, and short work says nothing."""

from types import SimpleNamespace

from sequencematch.data import progress


def messages(monkeypatch, capfd, seconds, count):
    """What is printed of `count` items that take so many seconds each."""
    clock = iter([i * seconds for i in range(count + 1)])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    done = []
    for item in progress.tell_progress(range(count), "reading x", lambda n: n / count):
        done.append(item)
    assert done == list(range(count))
    return capfd.readouterr().err.splitlines()


def test_long_work_is_told_of_ever_more_rarely(monkeypatch, capfd):
    lines = messages(monkeypatch, capfd, 1.0, 100)
    assert lines == [f"sequencematch: reading x: {share}%" for share in (2, 4, 8, 16, 32, 64)]


def test_short_work_says_nothing(monkeypatch, capfd):
    assert messages(monkeypatch, capfd, 0.02, 100) == []
