"""The default configuration, and functions that flatten and compare configurations."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from sequencematch.models.config import Lora, TransformerConfig
from sequencematch.models.pretrained.configs import read_config, transformer_config
from sequencematch.models.pretrained.presets import PRESETS
from sequencematch.train.methods import METHODS


def defaults() -> ConfigDict:
    """All keys with their defaults; a file in configs/ changes the few that its experiment needs."""
    return ConfigDict(
        dict(
            # "arithmetic", "countdown", "gym/NAME", "jsonl", "text", or your own, "package:function"
            task="arithmetic",
            method="sequencematch",
            seed=0,
            init="",  # new parameters; "run:DIR": another run's; "adapter:DIR": PEFT's on model.path
            data=dict(
                dir="~/.cache/sequencematch",  # prepared data sets
                source="generator",  # or "tfds": the published math_dataset (needs network)
                module="arithmetic__add_or_sub_in_base",
                bases=(10,),  # number bases, in 2..16; () for all, or for modules without bases
                entropy=(2.0, 5.0),  # range of log10 of the number of operand pairs
                train=20_000,  # questions at most; of task="jsonl" and "text" 0 takes all
                validation=500,
                test=500,
                seed=0,
                split="twins",  # questions about the same numbers in one split; or "prompt": each alone
                path="",  # file of task="jsonl"
                numbers=3,  # how many task="countdown" gives
                validation_path="",  # a file of its own for these questions, of which 0 takes all
                test_path="",
                fields="prompt",  # keys of its lines; or "question", "instruction", "messages"
                long="refuse",  # examples that do not fit; or "drop" them, from every split
                corpus="stdlib",  # of task="text": docstrings; or "files:GLOB", "tfds:NAME/SPLIT"
                divider="",  # regular expression where documents begin in its files; "": one a file
                tokenizer="characters",  # of it; or "bytes", or a folder with a tokenizer.json
                separator="",  # one token, between documents that windows may cross; "": none crosses
                window=256,  # tokens that a window of text learns, <eos> included; 0: whole documents
                prompt=32,  # tokens before a window, its prompt
                test_share=0.1,  # of a corpus' documents; validation gets half that share
                checker="exact",  # of its answers; or "hash" (what follows ####), "last_number"
            ),
            # <bos> and the longest prompt; T = prompt_slots + max_actions. Where these are 0, and
            # evaluate.max_actions, they are what the data take (windows of text: without noise).
            prompt_slots=34,
            max_actions=12,  # decisions after the prompt, edits included
            # Used by methods with edits. ("<reset>",) pops the whole answer at once; "<bkspc>" pops
            # one token, and "<bkspc2>" and "<bkspc4>" may be added to pop several. (): no method has
            # any; with noise.kind="none", as nothing could be taken back.
            edits=("<bkspc>",),
            noise=dict(
                kind="random",  # or "ground_truth", "policy" (hard negatives), "none"
                eta=0.1,  # probability that a wrong token is pushed before a right one
                run=0.0,  # probability that another wrong token follows a wrong one
                max_cut=0.01,  # share of the training texts that may lose their <eos> by it
                step="clean",  # label at a noise step: the right action; or "imitate" the wrong, "skip"
            ),
            model=dict(
                path="",  # directory of a pretrained model: its sizes, parameters and tokenizer
                preset="",  # sizes of a known model, such as "smollm2-135m", instead of those below
                layers=4,
                d_model=128,
                heads=4,
                kv_heads=2,
                d_ff=256,
                rope_base=10_000.0,
                dtype="float32",  # of activations; "auto": bfloat16 on accelerators, float32 on CPUs
                attention="chunked",  # some queries at a time; or "plain": all scores of a text at once
                remat="none",  # or the backward pass stores "products" alone; or "full": layers' inputs
                lora_rank=0,  # of adapters, which are trained in place of the network; 0 for none
                lora_alpha=16.0,  # an adapter is multiplied by lora_alpha / lora_rank
                lora_targets="blocks",  # regular expression: linear maps with one; or "query|value"
                lora_base="float",  # the blocks' kernels; or in "bfloat16", or in 4 bits: "nf4" (QLoRA)
            ),
            optimizer=dict(
                learning_rate=2e-3,
                warmup=100,  # steps
                final=0.05,  # last learning rate, as a fraction of the peak
                weight_decay=0.1,
                b1=0.9,
                b2=0.98,
                clip=1.0,  # largest norm of the gradient
            ),
            train=dict(
                steps=2_000,
                batch_size=64,
                accumulate=1,  # parts of a batch that are taken one after another, to save memory
                bc_steps=1_400,  # steps of behavioural cloning, before sequencematch matches
                beta_end=0.2,  # weight of imitation at the end; it falls from 1 at bc_steps
                frozen="",  # regular expression: parameters whose paths have it are not trained
                unfrozen="",  # likewise: what is trained beside adapters and edits; "embedding"
                skip_nonfinite=10,  # steps in a row that may be skipped as not finite; 0: stop at one
            ),
            objective=dict(
                divergence="chi2_mixture",
                alpha=0.3,  # scale of the reward
                gamma=0.998,  # discount; 1: none, for texts that end
                policy_weight=0.0,  # w, share of C on the policy's samples; no effect if C is V(s_0)
                weighting="discounted",  # or "uniform": like transitions drawn from a buffer
                terminal="learned",  # V(s_N) of a finished text; or "zero", as in IQ-Learn
                next_value="flowing",  # or "stopped": no gradient through V(s') in r and C
                bound=False,  # clip V(s') to +-4/(alpha (1-gamma)), as LS-IQ does
                t_max=100.0,  # largest slope of phi, and so the largest density ratio
                td_weight=0.0025,  # lambda of method=iql_offline; its alpha is 4 lambda
            ),
            rollout=dict(
                every=10,  # steps between refreshes of the replay buffer
                rows=64,  # episodes sampled in each refresh
                capacity=512,  # samples in the replay buffer
                batch_size=64,  # episodes drawn from the buffer for each step
                noise=False,  # whether samples have the noise of the data, too
            ),
            mesh=dict(data=1, fsdp=1, model=1),  # devices along each axis (docs/scaling.md)
            log_every=20,  # steps
            wandb="",  # PROJECT or ENTITY/PROJECT of Weights & Biases, which gets the records, too
            evaluate=dict(
                every=500,  # steps between validations
                examples=200,  # validation examples used in each
                rows=250,  # questions answered at once
                max_actions=24,  # decisions of an answer, edits included
                # Surviving tokens at which an answer stops as well; 0: none. Where texts are windows,
                # <eos> is no action of it then.
                stop_at=0,
                # Ways to answer; also such as "top_p=0.95,temperature=0.7" (rollout/decodings.py).
                decodings=("greedy", "sampled", "unedited"),
                edit_threshold=0.5,  # greedy answers edit where P(edits) is larger
                edit_bias=0.0,  # added to the log-odds of editing when answering
                temperature=1.0,  # of the tokens of sampled answers; edits are drawn at 1
                memory=True,  # a token that was deleted is not written in the same place again
                samples=4,  # drawn for each of `examples` test questions, to compare scores of answers
                traces=20,  # answers shown in the report, for each way of decoding
            ),
            checkpoint=dict(
                every=500,  # steps
                keep=2,  # number of newest checkpoints that are never deleted
                best=True,  # also keep the best by validation, of the steps that have both
                keep_every=0,  # also never delete those at multiples of this step; 0: no others
            ),
        )
    )


def has_edits(config: ConfigDict) -> bool:
    """Whether a run can take a token back: its method does so, and there are edits to do it with."""
    return METHODS[config.method].edits and bool(config.edits)


def answer_limit(config: ConfigDict) -> str:
    """The key below evaluate that says how many tokens may stand in an answer, and in its cache."""
    ends_first = 0 < config.evaluate.stop_at < config.evaluate.max_actions
    return "stop_at" if ends_first else "max_actions"


def effective_objective(config: ConfigDict) -> ConfigDict:
    """The objective's keys, with those that the method fixes replaced by its own values."""
    objective = config.objective.copy_and_resolve_references()
    objective.update(METHODS[config.method].objective(config.objective))
    return objective


def mesh_size(config: ConfigDict) -> int:
    """The number of devices of a run."""
    return config.mesh.data * config.mesh.fsdp * config.mesh.model


# Keys of `model` that hold for any sizes.
PRECISION = ("dtype", "attention", "remat")


def network_config(config: ConfigDict, vocab_size: int, edits: int = 0) -> TransformerConfig:
    """The sizes of the network: those of `model.path`, of `model.preset`, or the given ones.

    Args:
      config: the configuration.
      vocab_size: V.
      edits: how many of these ids, the last, are edits.

    Raises:
      ValueError: the width does not divide into heads, or the heads into groups, or there is no map
        for adapters; or there is no such directory, or no model in it that is read here; or two models
        are named.
    """
    lora, sizes = lora_config(config), {k: x for k, x in config.model.items() if "lora" not in k}
    path, preset = sizes.pop("path"), sizes.pop("preset")
    if path and preset:
        raise ValueError(
            f"config.model.path={path!r} and config.model.preset={preset!r} name two models: leave "
            "one out"
        )
    if not path and not preset:
        return TransformerConfig(vocab_size=vocab_size, edits=edits, lora=lora, **sizes)
    precision = {key: sizes[key] for key in PRECISION}
    try:
        known = read_config(path) if path else PRESETS[preset]
        found = transformer_config(known, vocab_size - edits, edits, **precision)
    except ValueError as error:
        named = f"path={path!r}" if path else f"preset={preset!r}"
        raise ValueError(f"config.model.{named}: {error}") from error
    return replace(found, lora=lora)


def function_of(network: TransformerConfig) -> TransformerConfig:
    """What a network computes with given parameters: the same for two that compute alike."""
    kept = Lora(1, network.lora.scale) if network.lora.rank else Lora()
    return replace(
        network, lora=kept, **{key: getattr(TransformerConfig, key) for key in PRECISION}
    )


def lora_config(config: ConfigDict) -> Lora:
    """The adapters of the network."""
    m = config.model
    return Lora(rank=m.lora_rank, alpha=m.lora_alpha, targets=m.lora_targets, base=m.lora_base)


def resolve_dtype(config: ConfigDict, platform: str) -> None:
    """Writes down what model.dtype="auto" means where a run begins.

    Args:
      config: the configuration; it is changed.
      platform: what jax calls the devices. On CPUs bfloat16 is slower than float32.
    """
    if config.model.dtype == "auto":
        config.model.dtype = {"cpu": "float32"}.get(platform, "bfloat16")


def flatten(config: Mapping | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """A nested configuration as one dict with dotted keys, such as `model.d_model`."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def check_known_key(key: str, known: Mapping) -> None:
    """Raises ValueError for a key that is not in `known`, and suggests the closest one."""
    if key not in known:
        near = find_abbreviated(key, known)
        advice = f"; did you mean {near!r}?" if near else suggest(key, known)
        raise ValueError(f"config.{key} is not a key of this configuration{advice}")


def find_abbreviated(key: str, known: Any) -> str | None:
    """The known key that `key` abbreviates by initials, as `optimizer.lr` does; None if none."""
    name = key.rpartition(".")[2]
    initials = {k: "".join(w[0] for w in k.rpartition(".")[2].split("_")) for k in known}
    found = [k for k in known if len(name) > 1 and initials[k] == name]
    return next(iter(difflib.get_close_matches(key, found, n=1, cutoff=0)), None)


def suggest(word: Any, words: Any) -> str:
    """`; did you mean 'x'?` for the closest of `words`, or an empty string if none is close."""
    near = difflib.get_close_matches(str(word), list(words), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def differences(ours: Mapping | ConfigDict, theirs: Mapping | ConfigDict) -> list[str]:
    """`key: theirs -> ours` for every dotted key in which two configurations differ."""
    ours, theirs = flatten(ours), flatten(theirs)
    return [
        f"{key}: {theirs.get(key, 'missing')!r} -> {ours.get(key, 'missing')!r}"
        for key in sorted({*ours, *theirs})
        if ours.get(key, "missing") != theirs.get(key, "missing")
    ]
