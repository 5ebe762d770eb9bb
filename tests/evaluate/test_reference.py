"""What another model says of texts, against one pass over each text alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sequencematch.core.types import Visibility
from sequencematch.data.episodes import answer_ids
from sequencematch.data.subword import read_tokenizer
from sequencematch.data.task import Example
from sequencematch.evaluate import mauve
from sequencematch.evaluate.generate import Answer
from sequencematch.evaluate.reference import Reference
from sequencematch.models.pretrained import configs
from tests.data import tokenizer_folders
from tests.evaluate.model_folder import write_model
from tests.models.pretrained import tiny

PAIRS = [("that ", "cat sat"), ("", "rat"), ("a", ""), ("", "")] + [
    ("cat", "that " * n) for n in range(8)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def reference(folder):
    return Reference(folder)


def read_alone(folder, ids):
    """(hidden states, log-probabilities) of one text, without padding."""
    network = tiny.network(configs.read_config(folder), tiny.read(folder))
    slots = jnp.arange(len(ids))[None]
    everything = Visibility(slots, slots, jnp.full_like(slots, len(ids)))
    hidden = nnx.jit(type(network).hidden)(network, jnp.asarray([ids], jnp.int32), everything)
    return np.asarray(hidden[0]), np.asarray(jax.nn.log_softmax(network.logits(hidden)))[0]


@pytest.mark.stress
def test_likelihoods_and_features_are_those_of_each_text_alone(folder, reference):
    tokenizer = read_tokenizer(folder, ())
    features, sums, counts, cut = reference.read(PAIRS)
    assert not cut.any()
    for i, (prompt, text) in enumerate(PAIRS[:6]):
        before = tokenizer.encode(prompt)
        ids = [*before, *answer_ids(tokenizer, prompt, text).ids]
        if not ids:
            assert counts[i] == 0
            continue
        hidden, log_p = read_alone(folder, ids)
        # Without <bos> nothing tells the first token.
        told = range(max(len(before), 1), len(ids))
        assert counts[i] == len(told)
        assert sums[i] == pytest.approx(sum(log_p[t - 1, ids[t]] for t in told), abs=1e-4)
        np.testing.assert_allclose(features[i], hidden[-1], atol=1e-4)


def answers(texts):
    return [Answer(Example("cat", "that cat"), [], text, False, True, 0) for text in texts]


def test_perplexity_is_compared_with_that_of_real_texts(reference):
    some = answers(["that cat", "that cat"])
    found = mauve.reference_perplexity(reference, [a.example for a in some], some)
    assert found["reference_perplexity_ratio"] == pytest.approx(1.0)
    _, (total,), (count,), _ = reference.read([("cat", "that cat")])
    assert found["reference_perplexity"] == pytest.approx(np.exp(-total / count), rel=1e-5)
    for low, high in found["intervals"].values():  # all texts are the same
        assert high - low == pytest.approx(0, abs=1e-4)


def test_nats_per_character_are_the_same_however_many_tokens_the_model_reads(
    reference, monkeypatch
):
    """A text of more tokens, each likelier, is no likelier: -log p of all of it is what counts."""
    texts = ["that cat", "rat", "a cat that"]
    found = mauve.reference_perplexity(
        reference, [a.example for a in answers(texts)], answers(texts)
    )
    sums = reference.read([("cat", text) for text in texts]).log_likelihoods
    per_character = found["reference_nats_per_character"]
    assert per_character == pytest.approx(-sums.sum() / sum(map(len, texts)), rel=1e-5)
    real = reference.read([("cat", "that cat")] * 3).log_likelihoods
    assert found["reference_nats_per_character_real"] == pytest.approx(-real.mean() / 8, rel=1e-5)
    low, high = found["intervals"]["reference_nats_per_character"]
    assert low < per_character < high
    read = reference.read
    monkeypatch.setattr(
        reference, "read", lambda pairs: read(pairs)._replace(counts=9 * read(pairs).counts)
    )
    again = mauve.reference_perplexity(
        reference, [a.example for a in answers(texts)], answers(texts)
    )
    assert again["reference_perplexity"] < 0.9 * found["reference_perplexity"]
    assert again["reference_nats_per_character"] == per_character


def test_of_texts_that_are_read_in_part_there_are_no_nats_per_character(reference):
    some = answers(["that cat", "that cat " * tiny.CONTEXT])
    found = mauve.reference_perplexity(reference, [a.example for a in some], some)
    assert found["reference_perplexity"] > 0 and "reference_nats_per_character" not in found
    assert "reference_nats_per_character" not in found["intervals"]


def test_of_texts_without_a_prompt_the_first_token_has_no_probability_and_so_no_characters(
    reference,
):
    """This model has no <bos>: a text of one token has none at all."""
    assert not reference.tells_first("") and reference.tells_first("cat")
    for texts in (["cat", "cat"], ["that cat", "cat"]):
        some = [dataclasses.replace(a.example, prompt="") for a in answers(texts)]
        found = mauve.reference_perplexity(
            reference,
            some,
            [a._replace(example=e) for a, e in zip(answers(texts), some, strict=True)],
        )
        assert "reference_nats_per_character" not in found


def test_perplexity_has_an_interval_over_texts_and_their_real_ones(reference):
    some = answers(["that cat", "rat", "a cat that", "that that that", "cat"])
    examples = [a.example for a in some]
    found = mauve.reference_perplexity(reference, examples, some)
    ratio = "reference_perplexity_ratio"
    without = [
        mauve.reference_perplexity(reference, examples[1:], [*some[:i], *some[i + 1 :]])[ratio]
        for i in range(5)
    ]
    low, high = found["intervals"][ratio]
    reach = 2.776445 * np.sqrt(4 * np.var(np.log(without)))  # Student's t of 4
    ends = np.exp(np.log(found[ratio]) + [-reach, reach])
    assert (low, high) == pytest.approx(tuple(ends), rel=1e-4)


def test_the_checksum_is_that_of_the_parameters(folder, reference, tmp_path):
    assert Reference(folder).checksum == reference.checksum
    other = tmp_path / "m"
    write_model(other, **{"transformer.wpe.weight": np.zeros((tiny.CONTEXT, 16), np.float32)})
    assert Reference(other).checksum != reference.checksum


def test_too_few_texts_for_mauve_are_refused_with_how_many_are_needed(reference, monkeypatch):
    monkeypatch.setattr(mauve, "load_optional", lambda name, extra: None)  # not needed to count
    some = answers(["a"] * 39)
    with pytest.raises(ValueError, match="mauve needs 40 texts or more.* there are 39"):
        mauve.mauve(reference, [a.example for a in some], some)


def test_texts_that_a_context_cannot_hold_are_counted_and_told(tmp_path, capsys):
    """Rotary positions reach further, but those were never trained."""

    def read_within(context):
        folder = tmp_path / str(context)
        folder.mkdir()
        size = read_tokenizer(tokenizer_folders.byte_level(folder), ()).own_size
        sizes = {"vocab_size": size, "eos_token_id": 0, "max_position_embeddings": context}
        return Reference(tiny.write(folder, tiny.CASES["llama, scaled"] | sizes)).read(PAIRS)

    whole, read = map(read_within, (96, 8))
    assert (read.cut == (whole.counts > read.counts)).all() and 0 < read.cut.sum() < len(PAIRS)
    told = f"of {read.cut.sum()} of {len(PAIRS)} texts it sees the beginning alone"
    assert capsys.readouterr().err.count(told) == 1


def test_texts_that_several_metrics_ask_for_are_read_once(reference, monkeypatch):
    real, made = [("cat", "that is real")], [[("cat", f"that {text}")] for text in ("a", "b", "c")]
    rows, read = reference._read_rows, []
    monkeypatch.setattr(reference, "_read_rows", lambda pairs: read.append([*pairs]) or rows(pairs))
    for texts in made:  # three systems, as two metrics ask for them
        for pairs in (texts, real, real, texts):
            reference.read(pairs)
    assert read == [made[0], real, made[1], made[2]]
