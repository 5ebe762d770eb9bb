import dataclasses
import re

import pytest

from sequencematch.data.checks import Room, check_examples, needed_room
from sequencematch.data.facts import describe
from sequencematch.data.noise import Noise
from sequencematch.data.survey import survey_examples
from sequencematch.data.task import Example, character_ids, character_task, example_bytes
from sequencematch.data.tokenizer import CharTokenizer
from tests.data.doubling import ALPHABET, CONFUSABLE, EXAMPLES, TASK, TOKENIZER
from tests.data.subwords import Subwords

ROOM = Room(prompt_slots=7, max_actions=3, answer_actions=3, slip=0)  # "36+36=" and "72"
KEYS = {"answer_actions": "evaluate.max_actions"}


def check(task, tokenizer=TOKENIZER, room=ROOM, noise=Noise(), max_cut=0.01, long="refuse"):
    surveys = survey_examples(task, tokenizer)
    kept_with = noise if long == "drop" else None
    return check_examples(task, surveys, tokenizer, room, noise, max_cut, kept_with)


def room_of(task, room, noise):
    return needed_room(task, survey_examples(task, TOKENIZER), TOKENIZER, room, noise, 0.01)


def error_of(*args, **changes):
    with pytest.raises(ValueError) as raised:
        check(*args, **changes)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@pytest.mark.parametrize("limit", ["prompt_slots", "max_actions", "answer_actions"])
def test_longest_example_that_does_not_fit_is_named(limit):
    """Also an answer that could never be given: it would always count as wrong."""
    split = "test" if limit == "answer_actions" else "train"
    longest = Example("100+1=", "101") if limit != "prompt_slots" else Example("100+10=", "11")
    task = TASK._replace(splits={split: [*EXAMPLES, longest, *EXAMPLES]})
    needed, key = getattr(ROOM, limit) + 1, KEYS.get(limit, limit)
    check(task, room=ROOM._replace(**{limit: needed}))
    assert error_of(task) == (
        f"config.{key}={needed - 1} is too small: example 37 of {split}, {longest.prompt!r}, needs "
        f"{needed}; in all 1 of 75 examples do not fit: --config.{key}={needed} makes room for all, "
        "--config.data.long=drop leaves them out"
    )


def misfits():
    """Twelve lines with prompts of 96+i characters and completions of 32+i, after one that fits."""
    examples = [Example("1" * (96 + i), "2" * (32 + i)) for i in range(12)]
    splits = {"train": [Example("1", "2"), *examples[:8]], "test": [Example("1", "2")] * 2}
    splits["validation"] = [Example("1", "2"), *examples[8:]]
    return TASK._replace(splits=splits)


def test_one_message_says_all_sizes_that_are_needed():
    room = Room(prompt_slots=96, max_actions=32, answer_actions=40, slip=2)
    message = error_of(misfits(), room=room)
    shown = repr("1" * 60 + "...")
    assert message == (
        f"config.prompt_slots=96 is too small: example 4 of validation, {shown}, needs 108; "
        f"config.max_actions=32 is too small: example 8 of train, {shown}, needs 40; "
        f"config.evaluate.max_actions=40 is too small: example 4 of validation, {shown}, needs 46, "
        "2 of them to take a slip back; in all 12 of 16 examples do not fit: "
        "--config.prompt_slots=108 --config.max_actions=40 --config.evaluate.max_actions=46 makes room "
        "for all, --config.data.long=drop leaves them out"
    )
    splits = misfits().splits
    dropped = misfits()._replace(splits=splits | {"test": splits["validation"][1:]})
    message = error_of(dropped, room=room, long="drop")
    assert "no example of test fits" in message and "long=drop" not in message
    assert check(misfits(), room=Room(108, 40, 46, 2)).found["too_long"] == dict.fromkeys(
        ("train", "test", "validation"), 0
    )


@pytest.mark.parametrize("eta", [0.0, 0.3])
def test_needed_room_holds_all_examples_and_their_noise_and_no_less_does(eta):
    noise = Noise("random", eta)
    room = room_of(misfits(), Room(0, 0, 0, 2), noise)
    assert (room.prompt_slots, room.slip) == (108, 2) and room.answer_actions >= room.max_actions
    assert (room.max_actions == 40) == (eta == 0)
    found = check(misfits(), room=room, noise=noise).found
    assert found["ends_lost"] <= 0.01 and not any(found["too_long"].values())
    for name in ("prompt_slots", "max_actions"):
        less = {name: getattr(room, name) - 1}
        assert "is too small" in error_of(misfits(), room=room._replace(**less), noise=noise)
    # What is given stays.
    given = room_of(misfits(), Room(7, 0, 9, 2), noise)
    assert given == Room(7, room.max_actions, 9, 2)
    # A quarter of the actions may be edits where answers stop at a length.
    assert room_of(misfits(), Room(7, 0, 0, 2, stop_at=70), noise).answer_actions == 140


def test_examples_that_do_not_fit_are_dropped_and_counted():
    room = Room(prompt_slots=96, max_actions=32, answer_actions=40, slip=2)
    data = check(misfits(), room=room, long="drop")
    assert data.found["too_long"] == {"train": 8, "test": 0, "validation": 4}
    assert {split: list(kept) for split, kept in data.splits.items()} == {
        "train": [Example("1", "2")],
        "test": [Example("1", "2")] * 2,
        "validation": [Example("1", "2")],
    }
    # What decides the batches are the examples and the sizes; the sizes are in the configuration.
    assert data.checksum == check(misfits(), room=Room(108, 40, 46, 2)).checksum


def test_a_split_of_which_nothing_fits_is_refused_however_long_is_set():
    task = misfits()
    task = task._replace(splits=task.splits | {"test": task.splits["train"][1:]})
    room = Room(prompt_slots=96, max_actions=32, answer_actions=40, slip=2)
    message = error_of(task, room=room, long="drop")
    assert message.startswith("no example of test fits; config.prompt_slots=96 is too small: ")


def test_an_answer_has_room_to_take_a_slip_back():
    task = TASK._replace(splits={"train": EXAMPLES, "test": EXAMPLES})
    check(task, room=ROOM._replace(answer_actions=5, slip=2))
    message = error_of(task, room=ROOM._replace(answer_actions=4, slip=2))
    assert "config.evaluate.max_actions=4 is too small: example 5 of test" in message
    assert "needs 5, 2 of them to take a slip back" in message


class Placed(list):
    """Knows where its examples come from."""

    nbytes = 17

    def place(self, index):
        return f"questions.txt:{index + 1}"


def test_an_example_that_knows_its_place_is_named_by_it():
    task = TASK._replace(splits={"train": Placed([*EXAMPLES, Example("1", "1234")])})
    assert ": questions.txt:38 of train, '1', needs 5" in error_of(task)


def test_bytes_are_those_that_a_split_names_or_those_of_a_list():
    splits = {"train": EXAMPLES, "test": Placed(EXAMPLES)}
    count = check(TASK._replace(splits=splits)).nbytes
    assert count == sum(map(example_bytes, EXAMPLES)) + 17
    assert check(TASK._replace(splits={"train": Endless()})).nbytes == 0  # it keeps nothing


class Endless:
    """Makes its examples."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return Example(f"{index}", "1")


def test_cut_example_needs_no_room_for_eos():
    windows = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    check(TASK._replace(splits={"train": windows}), room=ROOM._replace(max_actions=2))


def refuse(message, example, tokenizer=TOKENIZER):
    task = TASK._replace(splits={"train": [example]}, confusable=lambda tokenizer: [])
    with pytest.raises(ValueError, match=message) as raised:
        check(task, tokenizer)
    assert len(str(raised.value).splitlines()) == 1


def test_a_reference_of_many_examples_is_checked():
    task = TASK._replace(splits={"train": [Example("1=", c, ("1", "2", "x")) for c in "12"]})
    assert "'x' of 'x' are not in the alphabet" in error_of(task)


def test_what_noise_takes_of_windows_is_told():
    windows = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    task, noise = TASK._replace(splits={"train": windows}), Noise("random", 0.3)
    found = check(task, noise=noise, room=ROOM._replace(max_actions=2)).found
    assert 0.1 < found["unread_ends"] < 0.9 and found["ends_lost"] == 0
    (said,) = describe(found)
    assert said.endswith(f": {found['unread_ends']:.2%}.") and "windows" in said
    assert check(task, room=ROOM._replace(max_actions=2)).found["unread_ends"] == 0


def test_cut_example_without_a_completion_is_refused():
    refuse(
        "^example 0 of train, '1=': it is cut and has no completion", Example("1=", "", cut=True)
    )


def test_empty_prompt_needs_a_bos():
    check(TASK._replace(splits={"train": [Example("", "1")]}))
    words = "^example 0 of train, '': prompt '' has no tokens, and the tokenizer no <bos>"
    refuse(words, Example("", "a"), Subwords(("a",)))


def test_reference_without_ids_is_refused():
    refuse("'x' of 'x' are not in the alphabet", Example("1=", "1", ("1", "x")))


class Beyond(Subwords):
    """Encodes with an id that stands for no text."""

    def encode(self, text):
        return [{"a": 1, "b": 0, "c": 9}[c] for c in text]


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example("c", "a"), r"0 of train, 'c': .* its prompt with ids \[9\], which are none"),
        (Example("a", "b"), r"0 of train, 'a': .* its answer with ids \[0\], which are not among"),
        (Example("a", "a", ("a", "c")), r"'a': .* its answer with ids \[9\], which are not among"),
    ],
)
def test_ids_that_no_decision_can_take_are_refused(example, message):
    refuse(message, example, Beyond(("a",)))


def test_noise_that_would_push_what_is_no_token_of_a_text_is_refused():
    """Edits would pop, and `<eos>` end what goes on."""
    every = TASK._replace(confusable=lambda tokenizer: range(tokenizer.vocab_size))
    special = {*range(TOKENIZER.vocab_size)} - {*TOKENIZER.ordinary}
    assert f"`confusable` gives ids {sorted(special)}, which are not among" in error_of(every)


class Careless(Subwords):
    """Says that all its ids are ordinary."""

    ordinary = property(lambda self: range(self.vocab_size))


def test_ordinary_ids_hold_no_special_ones():
    refuse(
        "`ordinary` ids hold .*, which begin, end or fill up", Example("a", "a"), Careless(("a",))
    )


def test_examples_that_are_encoded_without_their_prompt_are_counted():
    tokenizer = Subwords(("=", "1", "2", "=1"))
    examples = [Example("2=", "1"), Example("2=", "2"), Example("1=", "12"), Example("1", "=1")]
    task = TASK._replace(splits={"train": examples, "test": examples[:1]}, confusable=lambda _: [])
    assert check(task, tokenizer).found["encoded_apart"] == 3
    assert check(TASK).found["encoded_apart"] == 0


class LowerCase(CharTokenizer):
    """Some tokenizers write texts in their own way."""

    def encode(self, text):
        return super().encode(text.lower())


def test_completions_that_the_tokenizer_changes_are_counted():
    """What is generated is never equal to them, so no answer would be right."""
    examples = [Example("a", "b"), Example("a", "Ab"), Example("A", "bb"), Example("b", "B")]
    task = TASK._replace(splits={"train": examples, "test": examples[1:2]}, confusable=lambda _: [])
    assert check(task, LowerCase("ab")).found["changed_completions"] == 3
    open_task = task._replace(is_open=True)
    assert check(open_task, LowerCase("ab")).found["changed_completions"] == 0
    assert check(TASK).found["changed_completions"] == 0


def test_checksum_is_of_all_that_decides_batches():
    """Ids are places in the alphabet: another alphabet permutes them, whatever the examples are."""
    another = [*EXAMPLES[:-1], Example("36+36=", "73")]
    windows = [dataclasses.replace(example, cut=True) for example in EXAMPLES]
    tasks = [
        TASK,
        character_task("double", ALPHABET + "z", TASK.splits, CONFUSABLE),
        TASK._replace(confusable=character_ids("13")),
        TASK._replace(splits={"train": another}),
        TASK._replace(splits={"train": windows}),
        TASK._replace(splits={"test": EXAMPLES}),
    ]
    sums = [check(task, task.tokenizer(("<bkspc>",))).checksum for task in tasks]
    sums.append(check(TASK, TASK.tokenizer(("<reset>",))).checksum)
    assert len(set(sums)) == len(tasks) + 1
    assert sums[0] == check(TASK._replace(name="again")).checksum
    # Where they lie does not matter, so that data can be moved.
    assert sums[0] == check(TASK._replace(splits={"train": Placed(EXAMPLES)})).checksum


def test_sizes_that_are_needed_hold_the_noise_too():
    """All that is named in one message is enough: nothing more is refused then."""
    noise, room = Noise("random", 0.1), Room(96, 32, 40, 2)
    message = error_of(misfits(), room=room, noise=noise)
    named = dict(re.findall(r"--config\.([a-z_.]+)=(\d+)", message))
    sizes = [int(named[key]) for key in room.sizes]
    assert "config.max_actions=32 is too small for noise.eta=0.1: " in message and sizes[1] > 40
    check(misfits(), room=Room(*sizes, 2), noise=noise)


def test_noise_alone_can_be_too_much():
    message = error_of(TASK, noise=Noise("random", 0.3))
    assert message.startswith("config.max_actions=3 is too small for noise.eta=0.3: ")
    assert "do not fit" not in message
    assert 0.1 < check(TASK, noise=Noise("random", 0.3), max_cut=1.0).found["ends_lost"] < 0.9


def test_what_is_dropped_leaves_texts_of_which_noise_cuts_few():
    """Else a larger max_actions would only keep longer texts, and be too small again."""
    texts = [Example("1=", "7" * n) for n in range(1, 60)]
    task = TASK._replace(splits={"train": texts, "test": texts[:5]})
    room, noise = Room(7, 32, 40, 2), Noise("random", 0.1)
    data = check(task, room=room, noise=noise, long="drop")
    kept = len(data.splits["train"])
    assert 15 < kept < 30 and list(data.splits["train"]) == texts[:kept]
    assert data.found["too_long"] == {"train": 59 - kept, "test": 0}
    assert 0 < data.found["ends_lost"] <= 0.01
    assert len(check(task, room=room, long="drop").splits["train"]) == 31  # without noise
