import itertools
import random

import numpy as np
import pytest

from sequencematch.data.mathematics import (
    check,
    distinct_questions,
    question,
    question_maker,
)
from tests.data.preparation import ADD, questions, solve


def test_question_i_is_a_function_of_seed_and_i():
    spec = questions(bases=(3, 10))
    sample = question_maker(spec)
    forwards = [question(spec, sample, i) for i in range(8)]
    random.seed(5)
    np.random.seed(5)
    assert [question(spec, sample, i) for i in reversed(range(8))] == forwards[::-1]
    assert [question(spec._replace(seed=1), sample, i) for i in range(8)] != forwards


@pytest.mark.parametrize("module", [ADD, "numbers__div_remainder"])  # the latter uses numpy.random
def test_global_random_states_are_unchanged(module):
    spec = questions(module)
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    randint = random.randint
    check(spec)
    stream = distinct_questions(spec)
    next(stream), next(stream)
    assert (random.random(), np.random.random()) == expected
    assert random.randint == randint


def test_numpy_draws_depend_on_seed_and_i_alone():
    spec = questions("numbers__div_remainder")
    sample = question_maker(spec)
    first = [question(spec, sample, i) for i in range(5)]
    np.random.seed(9)
    assert [question(spec, sample, i) for i in range(5)] == first


@pytest.mark.parametrize("bases", [(2,), (7, 16)])
def test_questions_have_only_the_bases_asked_for_and_right_answers(bases):
    seen = set()
    for example in itertools.islice(distinct_questions(questions(bases=bases)), 30):
        base, _, _, answer = solve(example.prompt)
        assert int(example.completion, base) == answer
        seen.add(base)
    assert seen == set(bases)


def test_choice_of_bases_does_not_change_the_numbers():
    free, chosen = questions(), questions(bases=(2, 10))
    sample = question_maker(free)
    for i in range(50):
        numbers = [solve(question(spec, sample, i).prompt)[1:3] for spec in (free, chosen)]
        assert numbers[0] == numbers[1]


def test_chosen_bases_are_equally_likely():
    spec = questions(bases=(2, 10))
    sample = question_maker(spec)
    drawn = [solve(question(spec, sample, i).prompt)[0] for i in range(400)]
    assert abs(drawn.count(2) - 200) < 4 * 10  # four standard deviations


@pytest.mark.parametrize("entropy", [(2.0, 2.0), (4.0, 6.0)])
def test_entropy_bounds_the_numbers(entropy):
    # A number of entropy e is one of about 10**e around zero. The numbers p and q share the entropy,
    # and each has at least 1.
    products = []
    for example in itertools.islice(distinct_questions(questions(entropy=entropy)), 100):
        _, p, q, _ = solve(example.prompt)
        assert max(abs(p), abs(q)) <= 10 ** entropy[1] / 2 + 1
        products.append((2 * abs(p) + 1) * (2 * abs(q) + 1))
    assert max(products) <= 4 * 10 ** max(entropy[1], 2.0) * 10
    assert max(products) >= 10 ** entropy[0]


def test_stream_has_no_duplicates():
    prompts = [
        e.prompt for e in itertools.islice(distinct_questions(questions(entropy=(1.0, 1.0))), 500)
    ]
    assert len(set(prompts)) == 500


def test_stream_that_runs_out_of_questions_ends_in_one_line():
    stream = distinct_questions(questions("numbers__is_prime", entropy=(0.0, 0.0)))
    with pytest.raises(ValueError, match=r"^data\.module='numbers__is_prime'.* only about \d+ .*$"):
        list(itertools.islice(stream, 5000))


@pytest.mark.parametrize(
    "spec, message",
    [
        (
            questions("calculus__differentiate"),
            "'calculus__differentiate' fails with numpy .*: use",
        ),
        (questions("algebra__polynomial_roots_composed"), "fails with numpy"),
        (questions("arithmetic__add_or_sub_in_bas"), f"did you mean '{ADD}'"),
        (questions(bases=(1, 10)), r"data.bases=\(1, 10\): allowed are 2 to 16"),
        (questions(entropy=(5.0, 2.0)), "data.entropy=.*low <= high"),
        (questions(entropy=(5.0,)), "data.entropy=.*low <= high"),
        (questions(seed=-1), r"data.seed=-1: allowed are 0 to 2\*\*32 - 1"),
        (questions("arithmetic__mul", bases=(10,)), r"'arithmetic__mul' have no base .* \(\)"),
    ],
)
def test_impossible_parameters_are_refused_in_one_line(spec, message):
    with pytest.raises(ValueError, match=message) as raised:
        check(spec)
    assert len(str(raised.value).splitlines()) == 1
