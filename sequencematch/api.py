"""A trained run from Python: `sequencematch.load(DIR)` answers prompts, scores answers, exports."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from flax import nnx
from ml_collections import ConfigDict

from sequencematch.cli import exporting, resume
from sequencematch.cli.choice import NEWEST
from sequencematch.cli.prompts import chat_prompt
from sequencematch.core.mdp import Mdp
from sequencematch.data.episodes import answer_ids, encode_prompt
from sequencematch.evaluate.generate import Generator
from sequencematch.evaluate.values import Scorer, Scores
from sequencematch.rollout.decodings import NAMED
from sequencematch.setup.build import Parts
from sequencematch.setup.examples import chats_of
from sequencematch.setup.judges import configured_decodings, make_generator, make_scorer
from sequencematch.storage.files import expand


class Answer(NamedTuple):
    """One answer of the model.

    Attributes:
      text: what is left after all deletions.
      symbols: the actions as they were taken, edits included: characters and names as `<bkspc>`.
      finished: whether it came to an end, by `<eos>` or at the length `evaluate.stop_at`.
    """

    text: str
    symbols: list[str]
    finished: bool


class Model:
    """A trained run; made by `load`.

    Attributes:
      config: the configuration of the run.
      step: steps that its parameters were trained for.
    """

    def __init__(self, parts: Parts, params: nnx.State, step: int):
        self.config: ConfigDict = parts.config
        self.step = step
        self._parts, self._params = parts, params
        # What compiles when it is first called, by the rows it works on and, of answers, the decoding.
        self._generators: dict[tuple[int, str], Generator] = {}
        self._scorers: dict[int, Scorer] = {}

    def answer(self, prompts: Sequence[str], decode: str = "greedy") -> list[Answer]:
        """Answers prompts, each with at most `evaluate.max_actions` actions.

        Args:
          prompts: texts that the task's tokenizer has ids for, at most `prompt_slots` tokens each with
            `<bos>`. Of a run on chats these are whole prompts, as `chat` writes them.
          decode: "greedy", "sampled", or, of a run with edits, "unedited": greedy without edits; or
            any other name of `rollout.decodings`, such as "top_p=0.95".
            Draws depend on the run's seed and on a prompt's place in the list, so a prompt that is
            listed n times gets n independent answers.

        Raises:
          ValueError: a prompt does not fit or has other characters, or there is no such `decode`.
        """
        _check_texts("prompts", prompts)
        parts = self._with_rows(len(prompts))
        key = (parts.config.evaluate.rows, decode)
        if key not in self._generators:
            decodings = configured_decodings(parts, [*NAMED, decode])
            if decode not in decodings:
                raise ValueError(f"decode={decode!r} must be one of {', '.join(decodings)}")
            self._generators[key] = make_generator(parts, decodings)
        generator = self._generators[key]
        symbols, text, is_finished = (
            self._parts.tokenizer.symbols,
            generator.text,
            generator.is_finished,
        )
        return [
            Answer(text(actions), symbols(actions), is_finished(actions))
            for actions in generator.actions(self._params, prompts, decode)
        ]

    def chat(self, turns: Sequence[Mapping[str, str]]) -> str:
        """The prompt of a chat, such as [{"role": "user", "content": "..."}], as the run learnt it.

        Raises:
          ValueError: the run did not learn from chats, these are none, or its model's template
            refuses them.
        """
        write_chat = chats_of(self.config, self._parts.tokenizer)
        if write_chat is None:
            raise ValueError("this run did not learn from chats (data.fields='messages')")
        return chat_prompt(turns, write_chat)

    def score(self, prompts: Sequence[str], answers: Sequence[str | Sequence[str]]) -> list[Scores]:
        """Values V and Q, implied rewards and log-probabilities of the actions of given answers.

        Args:
          prompts: one for each answer.
          answers: each a finished text, such as "17", or a list of symbols, such as
            ["1", "8", "<bkspc>", "7", "<eos>"]; without "<eos>" at its end it is a cut answer.

        Raises:
          ValueError: a text or symbol is unknown, an action is not legal for the run's method, or there
            is no room.
        """
        _check_texts("prompts", prompts)
        if len(prompts) != len(answers):
            raise ValueError(f"{len(prompts)} prompts, but {len(answers)} answers")
        mdp, parts = self._parts.recipe.mdp, self._with_rows(len(prompts))
        actions = [self._actions(mdp, *pair) for pair in zip(prompts, answers, strict=True)]
        rows = parts.config.evaluate.rows
        if rows not in self._scorers:
            self._scorers[rows] = make_scorer(parts)
        return list(self._scorers[rows].score(self._params, prompts, actions))

    def export(
        self, out: str | os.PathLike, adapter: bool = False, dtype: str | None = None
    ) -> None:
        """Writes the model as a directory that transformers reads, a model card and a loop beside it.

        Args:
          out: the directory; it must not exist, or be empty.
          adapter: write the adapters and the rows of edits alone, as PEFT reads them.
          dtype: what weights of a model are stored in; by default that of the model it began with, to
            which they are rounded. "float32" keeps them as they were trained.

        Raises:
          ValueError, OSError: the run did not begin with a pretrained model, or has no adapters, or it
            cannot be written.
        """
        if adapter:
            exporting.check_adapter(self._parts)
        path = expand(out).absolute()
        exporting.export(self._parts, self._params, self.step, path, adapter, dtype)

    def _actions(self, mdp: Mdp, prompt: str, answer: str | Sequence[str]) -> list[int]:
        """The ids of an answer's actions, once they are known to be possible."""
        parts, limits = self._parts, self.config
        text = isinstance(answer, str)
        ids = (
            [*answer_ids(parts.tokenizer, prompt, answer).ids, mdp.eos]
            if text
            else parts.tokenizer.parse(answer)
        )
        illegal = parts.tokenizer.symbols(i for i in ids if not mdp.legal[i])
        if illegal:
            raise ValueError(
                f"answer {answer!r}: {illegal} are no actions of method={limits.method}"
            )
        if not ids or mdp.eos in ids[:-1]:
            raise ValueError(
                f"answer {answer!r}: needs an action or more, and <eos> only at its end"
            )
        if len(ids) > limits.evaluate.max_actions:
            raise ValueError(
                f"answer {answer!r} has {len(ids)} actions: at most evaluate.max_actions="
                f"{limits.evaluate.max_actions} fit"
            )
        encode_prompt(parts.tokenizer, prompt, limits.prompt_slots)  # raises if it does not fit
        return ids

    def _with_rows(self, count: int) -> Parts:
        """The parts, to work on about as many rows at once as there are: few numbers, few programs."""
        config = self.config.copy_and_resolve_references()
        config.evaluate.rows = min(1 << max(count - 1, 0).bit_length(), config.evaluate.rows)
        return self._parts._replace(config=config)


def load(
    folder: str | os.PathLike,
    checkpoint: str | int = NEWEST,
    mesh: Mapping[str, int] | None = None,
    base: str | os.PathLike = "",
) -> Model:
    """Opens a checkpoint of a run.

    Args:
      folder: its work directory. As on the command line, a run whose config.json asks for Python code
        (a task of your own) is not opened.
      checkpoint: "newest" (sound) one, "best" by validation, or a step.
      mesh: devices along "data", "fsdp" and "model"; without it one device, whatever it was trained on.
      base: where the pretrained model lies that the run began with, if that has moved.

    Raises:
      ValueError, OSError: there is no run, or it cannot be opened; one line says why.
    """
    parts, state = resume.open_run(expand(folder), str(checkpoint), mesh, os.fspath(base))
    return Model(parts, parts.whole(state.params), int(state.step))


def _check_texts(name: str, texts: Sequence[str]) -> None:
    """Raises ValueError for one text where a list of texts is expected."""
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{name} must be a list of texts, not {texts!r}")
