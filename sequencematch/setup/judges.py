"""Builds what answers the task's questions, and what judges the answers."""

from collections.abc import Mapping, Sequence

import numpy as np

from sequencematch.core.mdp import Mdp
from sequencematch.evaluate.generate import Generator, make_decodings
from sequencematch.evaluate.values import Scorer
from sequencematch.rollout.decoding import Decoding
from sequencematch.setup.build import Parts
from sequencematch.train import mesh as meshes


def make_generator(
    parts: Parts, decodings: Mapping[str, Decoding | None] | None = None
) -> Generator:
    """The generator of answers to the task's prompts, for validation and evaluation.

    Args:
      parts: the parts of the run.
      decodings: the ways to answer, by name; by default those of the configuration.
    """
    c = parts.config
    return Generator(
        parts.recipe.graph,
        answer_actions(parts),
        parts.task,
        parts.tokenizer,
        prompt_slots=c.prompt_slots,
        max_actions=c.evaluate.max_actions,
        rows=meshes.round_up_rows(parts.mesh, c.evaluate.rows),
        sharding=meshes.batch_sharding(parts.mesh),
        seed=c.seed,
        stop_at=c.evaluate.stop_at,
        decodings=configured_decodings(parts) if decodings is None else decodings,
    )


def answer_actions(parts: Parts) -> Mdp:
    """The decision process of answers.

    Where texts are windows, and answers stop at a length, `<eos>` is no action: it would end a
    text that goes on. The probabilities of the others are renormalised.
    """
    mdp, goes_on = parts.recipe.mdp, parts.task.is_windowed and parts.config.evaluate.stop_at > 0
    is_eos = np.arange(len(mdp.legal)) == mdp.eos
    return mdp._replace(legal=mdp.legal & ~is_eos) if goes_on else mdp


def configured_decodings(parts: Parts, names: Sequence[str] = ()) -> dict[str, Decoding]:
    """The ways to answer (docs/mathematics.md, section 7), by name.

    Args:
      parts: the parts of the run.
      names: as of `parse_decoding`; by default those of the configuration.

    Raises:
      ValueError: a name stands for nothing.
    """
    c = parts.config.evaluate
    return make_decodings(
        parts.recipe.mdp,
        threshold=c.edit_threshold,
        bias=c.edit_bias,
        temperature=c.temperature,
        memory=c.memory,
        names=names or c.decodings,
    )


def make_scorer(parts: Parts, mdp: Mdp | None = None, max_actions: int | None = None) -> Scorer:
    """The computation of recovered returns of generated answers (docs/mathematics.md, section 4).

    Args:
      parts: the parts of the run.
      mdp: says which actions have a probability, all of which is theirs; by default those of training.
      max_actions: the most that are scored; by default those of an answer.
    """
    c = parts.config
    return Scorer(
        parts.recipe.graph,
        parts.recipe.mdp if mdp is None else mdp,
        parts.tokenizer,
        slots=c.prompt_slots + (max_actions or c.evaluate.max_actions),
        rows=meshes.round_up_rows(parts.mesh, c.evaluate.rows),
        sharding=meshes.batch_sharding(parts.mesh),
        objective=parts.recipe.objective,
    )
