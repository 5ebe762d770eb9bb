from sequencematch.data.task import Example, character_ids, character_task, exact_match
from sequencematch.data.tokenizer import ByteTokenizer, CharTokenizer


def test_completion_is_the_reference_unless_others_are_named():
    assert Example("2*6=", "12").references == ("12",)
    several = Example("12=", "2*6", ("2*6", "3*4"))
    assert several.references == ("2*6", "3*4")
    assert exact_match(several, "3*4") and not exact_match(several, "4*3")
    assert Example("a", "b") == Example("a", "b", ("b",)) != Example("a", "b", cut=True)


def test_confusable_characters_are_all_ids_that_they_are_made_of():
    confusable = character_ids("bé")
    characters, units = CharTokenizer("abé"), ByteTokenizer()
    assert characters.symbols(confusable(characters)) == ["b", "é"]
    assert units.symbols(confusable(units)) == ["b", "<0xA9>", "<0xC3>"]


def test_a_task_of_characters_is_judged_by_exact_match_and_accuracy():
    task = character_task("copy", "ba", {"train": [Example("a", "a")]}, "ab")
    assert task.tokenizer(("<reset>",)) == CharTokenizer("ba", ("<reset>",))
    assert (task.metrics, task.judged_by) == (("accuracy",), "accuracy")
    assert task.check is exact_match and task.possible is None
