from hypothesis import given
from hypothesis import strategies as st

from sequencematch.data.ids import Ids


@given(st.sets(st.integers(0, 30)))
def test_they_are_a_sorted_list(numbers):
    expected = sorted(numbers)
    ids = Ids(expected)
    assert [*ids] == expected and len(ids) == len(expected)
    assert [ids[i] for i in range(-len(ids), len(ids))] == expected * 2
    assert [i in ids for i in range(-1, 32)] == [i in numbers for i in range(-1, 32)]
    assert ids[1:-1] == expected[1:-1]
