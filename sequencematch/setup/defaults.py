"""Every default once, and how configurations are read and compared."""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from sequencematch.models.config import TransformerConfig
from sequencematch.train.methods import METHODS


def defaults() -> ConfigDict:
    """All keys with their defaults; a file in configs/ changes the few that make its experiment."""
    return ConfigDict(
        dict(
            task="arithmetic",  # arithmetic, jsonl, or your own as "package.module:function"
            method="sequencematch",
            seed=0,
            data=dict(
                dir="~/.cache/sequencematch",  # prepared data sets
                source="generator",  # or "tfds": the published math_dataset (needs network)
                module="arithmetic__add_or_sub_in_base",
                bases=(10,),  # of 2..16; () for all, or where questions have none
                entropy=(2.0, 5.0),  # log10 of the number of possible operand pairs, a range
                train=20_000,
                validation=500,
                test=500,
                seed=0,
                path="",  # the file of task="jsonl"
            ),
            prompt_slots=34,  # <bos> and the longest prompt; T = prompt_slots + max_actions
            max_actions=12,  # decisions after the prompt, edits included
            # Of methods that can take tokens back: ("<reset>",) the whole answer at once, or
            # "<bkspc>" and perhaps "<bkspc2>", "<bkspc4>", several tokens.
            edits=("<bkspc>",),
            noise=dict(
                kind="random",  # random, ground_truth, policy (hard negatives) or none
                eta=0.1,  # probability that a push goes wrong
                run=0.0,  # probability that another wrong token follows a wrong one
                step="clean",  # taught where one is pushed: the right action; or "imitate", "skip"
            ),
            model=dict(
                layers=4,
                d_model=128,
                heads=4,
                kv_heads=2,
                d_ff=256,
                rope_base=10_000.0,
                dtype="float32",
            ),
            optimizer=dict(
                learning_rate=2e-3,
                warmup=100,  # steps
                final=0.05,  # last learning rate, as a share of the peak
                weight_decay=0.1,
                b1=0.9,
                b2=0.98,
                clip=1.0,  # gradient norm
            ),
            train=dict(
                steps=2_000,
                batch_size=64,
                bc_steps=1_400,  # of them behavioural cloning, before sequencematch matches
                beta_end=0.2,  # weight of imitation at the end, from 1 at bc_steps
                skip_nonfinite=10,  # steps in a row skipped for a NaN or infinity; 0: stop at the first
            ),
            objective=dict(
                divergence="chi2_mixture",
                alpha=0.01,  # scale of the reward
                gamma=0.9,  # discount
                policy_weight=0.5,  # w, share of the value cost on the policy's own steps
                weighting="discounted",  # or "uniform": as transitions drawn from a buffer
                terminal="learned",  # V(s_N) of a finished text; or "zero", as in IQ-Learn
                next_value="flowing",  # or "stopped": no gradient through V(s') of the reward
                bound=False,  # V(s') within +-4/(alpha (1-gamma)), LS-IQ
                t_max=100.0,  # largest slope of phi
                td_weight=0.0025,  # lambda of method=iql_offline, alpha = 4 lambda
            ),
            rollout=dict(
                every=10,  # steps between refreshes of the replay buffer
                rows=64,  # episodes sampled at each
                capacity=512,  # episodes kept
                batch_size=64,  # episodes drawn for each step
            ),
            mesh=dict(data=1, model=1),
            log_every=20,
            evaluate=dict(
                every=500,  # steps between looks at the validation set
                examples=200,  # of the validation set, at each
                rows=250,  # answered at once
                max_actions=24,
                edit_bias=0.0,  # added to the logits of edits when it answers
                traces=20,  # examples of each kind kept for the report
            ),
            checkpoint=dict(
                every=500,  # steps
                keep=2,  # the newest ones stay
                keep_every=0,  # and those of multiples of so many steps; 0: none
            ),
        )
    )


def effective_objective(config: ConfigDict) -> ConfigDict:
    """The objective's keys, those that the method decides itself in their place."""
    objective = config.objective.copy_and_resolve_references()
    objective.update(METHODS[config.method].objective(config.objective))
    return objective


def network_config(config: ConfigDict, vocab_size: int) -> TransformerConfig:
    """The sizes of the network.

    Raises:
      ValueError: sizes do not divide.
    """
    return TransformerConfig(vocab_size=vocab_size, **config.model)


def flat(config: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted names."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def check_known_key(key: str, known: Mapping) -> None:
    """Raises ValueError, with the nearest right spelling, for a key that is not there."""
    if key not in known:
        raise ValueError(f"config.{key} is no key of this configuration{suggest(key, known)}")


def suggest(word: Any, words: Any) -> str:
    """What was probably meant, or nothing."""
    near = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def differences(ours: Mapping | ConfigDict, theirs: Mapping | ConfigDict) -> list[str]:
    """`key: theirs -> ours` for every dotted key in which two configurations differ."""
    ours, theirs = flat(ours), flat(theirs)
    return [
        f"{key}: {theirs.get(key, 'missing')!r} -> {ours.get(key, 'missing')!r}"
        for key in sorted({*ours, *theirs})
        if ours.get(key, "missing") != theirs.get(key, "missing")
    ]
