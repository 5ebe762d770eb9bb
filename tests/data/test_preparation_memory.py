"""Preparing a corpus takes the same memory whatever its size."""

import pytest

from experiments.preparation import prepare_apart, write_corpus

MiB = 2**20


@pytest.mark.exhaustive
@pytest.mark.stress
@pytest.mark.parametrize("kind", ["jsonl", "txt"])
def test_memory_of_preparation_is_independent_of_the_corpus(tmp_path, kind):
    """Eight times the corpus takes no more, but for a hash of each document."""
    peaks = []
    for megabytes in (20, 160):
        path = tmp_path / f"{megabytes}.{kind}"
        write_corpus(path, megabytes)
        peaks.append(prepare_apart(path, "bytes").peak)
        path.unlink()
    assert peaks[1] - peaks[0] < 64 * MiB and peaks[1] < 512 * MiB
