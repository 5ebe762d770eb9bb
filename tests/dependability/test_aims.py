"""The trigger sends the signal in the moment aimed at."""

from tests.dependability.aims import NEVER, Trigger


def test_a_trigger_waits_for_a_checkpoint_and_for_its_moment():
    trigger = Trigger("sampling", 1.0, wait=True)
    assert not trigger(2.0, "sampling", False)
    assert not trigger(2.1, "step", True)
    assert trigger(2.2, "sampling", True)
    assert not Trigger(NEVER, 0.0, wait=False)(9.0, "save", True)
