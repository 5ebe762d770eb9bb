"""Reading ahead changes when batches are made, and nothing else."""

import threading

import pytest

from sequencematch.data.pipeline import Prefetched


class Squares:
    """Batches that note which thread made them."""

    def __init__(self):
        self.made = {}

    def __getitem__(self, i):
        if i == 7:
            raise ValueError("batch 7 cannot be made")
        self.made[i] = threading.current_thread().name
        return i * i


def test_batches_are_those_of_the_data_set_in_any_order():
    batches = Prefetched(Squares())
    order = [3, 4, 5, 0, 1, 1, 6, 2]
    assert [batches[i] for i in order] == [i * i for i in order]


@pytest.mark.parametrize("stride", [1, 10])
def test_the_next_batch_is_made_by_a_thread(stride):
    source = Squares()
    batches = Prefetched(source, stride)
    for i in (10, 10 + stride):
        batches[i]
    assert source.made[10] == threading.current_thread().name
    assert source.made[10 + stride].startswith("prefetch")


def test_an_error_is_raised_where_the_batch_is_read():
    batches = Prefetched(Squares())
    assert batches[6] == 36
    with pytest.raises(ValueError, match="batch 7"):
        batches[7]
