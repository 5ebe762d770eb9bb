"""What another language model says of texts: their likelihood, and features for MAUVE."""

import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Float, Int

from sequencematch.core.types import Visibility
from sequencematch.data.episodes import answer_ids, round_slots
from sequencematch.data.progress import tell_progress
from sequencematch.data.subword import read_tokenizer
from sequencematch.models.pretrained.configs import family_of, read_config, transformer_config
from sequencematch.models.pretrained.reader import open_weights, read_params
from sequencematch.models.transformer import Transformer, parameter_shapes
from sequencematch.storage.console import to_stderr
from sequencematch.storage.files import expand
from sequencematch.storage.fingerprint import fingerprints

_ROWS = 8  # texts at once
_REMEMBERED = 12  # sets of texts: the real ones, and those of a run's ways to answer

Pair = tuple[str, str]  # prompt, text


class Reference:
    """A model directory as Hugging Face has it, which reads texts.

    Args:
      path: the directory.

    Raises:
      ValueError, OSError: it is not there, is no model that is read here, or cannot be read.
    """

    def __init__(self, path: str | Path):
        self.path = expand(path)
        config = read_config(path)
        self._tokenizer = read_tokenizer(self.path, ())
        sizes = transformer_config(config, self._tokenizer.own_size, 0)
        shapes = parameter_shapes(sizes)
        self._params = read_params(open_weights(self.path), family_of(config), shapes)
        graph, _ = nnx.split(nnx.eval_shape(lambda: Transformer(sizes, nnx.Rngs(0))))
        self._context = sizes.context or None  # further positions were never trained
        self._call = jax.jit(partial(_read_tokens, graph))
        self._known: OrderedDict[tuple[Pair, ...], Reading] = OrderedDict()

    @property
    def checksum(self) -> int:
        """Of all parameters and the tokenizer."""
        parts = sorted((name, int(x)) for name, x in fingerprints(self._params).items())
        return zlib.crc32(repr((parts, self._tokenizer.fingerprint)).encode())

    def read(self, pairs: Sequence[Pair]) -> "Reading":
        """What the model says of each text after its prompt.

        The last few sets of texts are remembered: several metrics ask for the same ones.
        """
        key = tuple(pairs)
        if key not in self._known:
            rows = self._read_rows(key)
            self._known[key] = found = Reading(*map(np.stack, zip(*rows, strict=True)))
            if cut := int(found.cut.sum()):
                to_stderr(
                    f"{self.path} reads {self._context} tokens at most: of {cut} of {len(key)} texts "
                    "it sees the beginning alone"
                )
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]

    def encode(self, pair: Pair) -> tuple[int, list[int]]:
        """(Number of ids before the text, all ids).

        Raises:
          ValueError: the model has no ids for something in them.
        """
        own = [] if self._tokenizer.bos is None else [self._tokenizer.bos]
        before = [*own, *self._tokenizer.encode(pair[0])]
        ids = [*before, *answer_ids(self._tokenizer, *pair).ids] or [self._tokenizer.eos]
        return min(len(before), len(ids)), ids

    def tells_first(self, prompt: str) -> bool:
        """Whether a text's first token has a probability: it needs a token before it."""
        return self._tokenizer.bos is not None or bool(self._tokenizer.encode(prompt))

    def _read_rows(self, pairs: Sequence[Pair]) -> list[tuple]:
        """The parts of a `Reading` of each pair, in order."""
        encoded = [self.encode(pair) for pair in pairs]
        # Those of one length together, for little padding.
        order = sorted(range(len(pairs)), key=lambda i: len(encoded[i][1]))
        what, share = f"reading texts by {self.path.name}", lambda n: n * _ROWS / len(pairs)
        found: dict[int, tuple] = {}
        for begin in tell_progress(range(0, len(pairs), _ROWS), what, share):
            which = order[begin : begin + _ROWS]
            found |= zip(which, self._read_chunk([encoded[i] for i in which]), strict=True)
        return [found[i] for i in range(len(pairs))]

    def _read_chunk(self, encoded: Sequence[tuple[int, list[int]]]) -> Iterator[tuple]:
        """Yields the parts of a `Reading` of each of at most `_ROWS` encoded pairs."""
        chunk = [(before, ids[: self._context]) for before, ids in encoded]
        longest = max(len(ids) for _, ids in chunk)
        slots = min(round_slots(longest), self._context or round_slots(longest))
        tokens = np.full((_ROWS, slots), self._tokenizer.pad, np.int32)
        for row, (_, ids) in enumerate(chunk):
            tokens[row, : len(ids)] = ids
        ends = np.array([len(ids) - 1 for _, ids in chunk] + [0] * (_ROWS - len(chunk)))
        with jax.default_matmul_precision("float32"):  # GPUs would round what they multiply
            last, log_probs = jax.device_get(self._call(self._params, tokens, ends))
        for row, (before, ids) in enumerate(chunk):
            first, is_cut = max(before, 1), len(ids) < len(encoded[row][1])
            total = log_probs[row, first - 1 : len(ids) - 1].sum()
            yield last[row], float(total), max(len(ids) - first, 0), is_cut


class Reading(NamedTuple):
    """What a model says of N texts.

    Attributes:
      features: float32[N, D], final hidden state of the last token of each prompt with its text.
      log_likelihoods: float[N], Σ log p of the tokens of each text after its prompt. A text without
        prompt, in a model without `<bos>`, has no probability of its first token: it is not counted.
      counts: int[N], the number of these tokens.
      cut: bool[N], whether the model's context was too short, and only its beginning was read.
    """

    features: Float[np.ndarray, "N D"]
    log_likelihoods: Float[np.ndarray, " N"]
    counts: Int[np.ndarray, " N"]
    cut: Bool[np.ndarray, " N"]


def _read_tokens(
    graph: nnx.GraphDef, params: nnx.State, tokens: jax.Array, ends: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(Hidden states at the ends, [B, D]; log-probability of the token after each slot, [B, T-1])."""
    model = nnx.merge(graph, params)
    slots = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    visibility = Visibility(slots, slots, jnp.full(tokens.shape, tokens.shape[1]))
    hidden = model.hidden(tokens, visibility)

    def read_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        states, following = row
        logits = model.logits(states)
        chosen = jnp.take_along_axis(logits, following[:, None], axis=1)[:, 0]
        # On a CPU log_softmax takes longer than the logits themselves: it writes another [T, V].
        return chosen - jax.nn.logsumexp(logits, axis=1)

    # Row by row: logits of all would take gigabytes.
    log_probs = jax.lax.map(read_row, (hidden[:, :-1], tokens[:, 1:]))
    return hidden[jnp.arange(tokens.shape[0]), ends].astype(jnp.float32), log_probs
