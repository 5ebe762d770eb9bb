"""The flags of the command line, and the configuration that they select."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from sequencematch.cli import cluster
from sequencematch.cli.configuration import choose_config, join_config
from sequencematch.models.pretrained.configs import DTYPES
from sequencematch.rollout.decodings import TINY, decoding_fault, parse_decoding
from sequencematch.storage.files import expand

LONGEST = 100  # characters of a flag name
TEXTS = {
    "checkpoint": "newest (the default), best by validation, or a step.",
    "data": "Questions to evaluate on instead of the test set, a file of JSON lines.",
    "decode": "How to answer, such as top_p=0.95 or top_k=4,contrastive=0.6.",
    "files": "Files of JSON lines with a text each, of any system, joined by commas.",
    "metrics": "What to measure of them, joined by commas.",
    "reference": "A directory of another model, for the metrics mauve and reference_perplexity.",
    "profile": "FIRST:END, steps whose work is traced into DIR/profile (docs/profiling.md).",
    "prompt": "A prompt to answer.",
    "prompts": "Prompts to answer: a file of JSON lines if it ends in .jsonl, else of lines of text.",
    "out": "--mode=sample: file of JSON lines, continued if there is one; --mode=export: a new folder.",
}
# Flags that go with some modes only.
MODES = {
    **dict.fromkeys(("dry_run", "profile", "memory_profile"), ("train",)),
    "data": ("evaluate",),
    **dict.fromkeys(("files", "metrics", "reference"), ("score",)),
    "checkpoint": ("evaluate", "sample", "export"),
    "out": ("sample", "export"),
    **dict.fromkeys(("adapter", "dtype"), ("export",)),
    **dict.fromkeys(("prompt", "prompts", "num", "samples", "temperature", "decode"), ("sample",)),
}


class Asked(NamedTuple):
    """What a command line asks for.

    Attributes:
      flags: all but --config.
      config: the configuration, with its overrides; None where help is asked for.
      name: the configuration's.
      is_named: whether --config names it; else it is the one of the run in --workdir.
    """

    flags: flags.FlagValues
    config: ConfigDict | None = None
    name: str = ""
    is_named: bool = False


def define_flags(values: flags.FlagValues) -> None:
    """Defines all flags except --config."""
    modes = ["train", "evaluate", "sample", "score", "export"]
    flags.DEFINE_enum("mode", "train", modes, "What to do.", flag_values=values)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run; default runs/<config>-<method>-<seed>.",
        flag_values=values,
    )
    flags.DEFINE_bool("resume", False, "Continue the run in --workdir.", flag_values=values)
    flags.DEFINE_bool(
        "dry_run", False, "Check everything, print the plan, train nothing.", flag_values=values
    )
    flags.DEFINE_bool(
        "adapter", False, "Export the adapters alone, as PEFT reads them.", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype",
        None,
        DTYPES,
        "What an exported model is stored in; default as the model that it began with.",
        flag_values=values,
    )
    for name, text in TEXTS.items():
        flags.DEFINE_string(name, None, text, flag_values=values)
    flags.DEFINE_integer(
        "memory_profile",
        None,
        "A step before which the devices' memory is written into DIR/profile.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num", None, "Answer that many test questions.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "samples", None, "Answers drawn for each prompt.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_float(
        "temperature", None, "Of drawn answers; default evaluate.temperature.", flag_values=values
    )
    cluster.define_flags(values)
    flags.DEFINE_bool("help", False, "Print this help.", flag_values=values)


def parse_flags(argv: Sequence[str]) -> Asked:
    """Parses the command line, and checks every `--config.key` against the configuration.

    It is parsed twice. The first pass only finds the file and the overrides, so that an unknown key can
    be reported with the closest one that there is.

    Raises:
      ValueError, flags.Error: a flag or a key does not exist, or a value is not allowed.
    """
    for name in (arg.split("=")[0] for arg in argv[1:] if arg.startswith("-")):
        if len(name) > LONGEST:  # absl searches for similar names recursively, and would overflow
            raise ValueError(f"{name[:LONGEST]!r}... is not a flag")
    argv = [argv[0], *join_config(argv[1:])]
    named = flags.FlagValues()
    named.set_gnu_getopt()
    define_flags(named)
    flags.DEFINE_string(
        "config",
        None,
        "NAME[:METHOD] or FILE[:METHOD]; --config.KEY=VALUE overrides a key.",
        flag_values=named,
    )
    rest = [arg.lstrip("-") for arg in named(argv, known_only=True)[1:]]
    if named.help:
        return Asked(named)
    if named.mode == "score":  # of files alone: no run and no configuration
        check_modes(named)
        rest += ["config"] * (named.config is not None)
        if rest:
            raise ValueError(f"{rest[0]!r} does not go with --mode=score, or is no flag")
        return Asked(named)
    if named.workdir is not None:
        check_workdir_name(named.workdir)
    overrides = [arg.split("=")[0][len("config.") :] for arg in rest if arg.startswith("config.")]
    chosen = choose_config(named.config, named.workdir, overrides)
    values = flags.FlagValues()
    define_flags(values)
    argv = [arg for arg in argv if not arg.startswith(("--config=", "-config="))]
    config_flags.DEFINE_config_dict("config", chosen[0], flag_values=values, sys_argv=argv)
    stray = values(argv)[1:]
    if stray:
        raise ValueError(f"{stray[0]!r} is not a flag: write --name=value")
    check_modes(values)
    return Asked(values, *chosen)


def check_modes(values: flags.FlagValues) -> None:
    """Raises ValueError for flags that do not go with the mode, or with each other, or are empty."""
    for name in TEXTS.keys() - {"prompt"}:  # an empty prompt is one
        if values[name].value == "":
            raise ValueError(f"--{name}= is empty: leave it out, or give it a value")
    for name, modes in MODES.items():
        if values[name].value not in (None, False) and values.mode not in modes:
            raise ValueError(f"--{name} is for --mode={' and --mode='.join(modes)} only")
    if values.mode == "export" and not values.out:
        raise ValueError("--mode=export needs --out=DIR, a new directory")
    if values.adapter and values.dtype:
        raise ValueError("--dtype is of a whole model, and --adapter writes none: leave one out")
    if values.mode == "score" and not (values.files and values.metrics):
        raise ValueError("--mode=score needs --files=A.jsonl,B.jsonl and --metrics=NAME,NAME")
    if values.mode == "sample":
        asked = [f"--{n}" for n in ("prompt", "prompts", "num") if values[n].value is not None]
        if len(asked) != 1:
            raise ValueError(
                '--mode=sample needs one of --prompt="...", --prompts=FILE and --num=N, not '
                f"{' and '.join(asked) or 'none of them'}"
            )
    if values.temperature is not None and not TINY <= values.temperature < math.inf:
        raise ValueError(
            f"--temperature={values.temperature} must be > 0, as a float32; leave it out for greedy "
            "answers"
        )
    if values.decode and not decoding_fault(values.decode):
        check_draws(values.decode, values.temperature, values.samples)


def check_draws(decode: str, temperature: float | None, samples: int | None) -> None:
    """Raises ValueError for a temperature or a number of samples that would change nothing."""
    usual = dict(threshold=0.5, bias=0.0, memory=False)
    one, other = (parse_decoding(decode, temperature=x, **usual) for x in (1.0, 2.0))
    if temperature is not None and one == other:
        raise ValueError(
            f"--temperature={temperature} plays no part in --decode={decode}: leave one of them out"
        )
    if (samples or 1) > 1 and not one.temperature:
        raise ValueError(
            f"--samples={samples} would be as many equal answers: --decode={decode} draws nothing"
        )


def check_workdir_name(path: str) -> Path:
    """The work directory as a path that orbax can write checkpoints to.

    Raises:
      ValueError: the path is empty, or not UTF-8.
    """
    if not path:
        raise ValueError("--workdir= is empty: name a folder")
    folder = expand(path)
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--workdir={path} is not UTF-8: name another folder") from error
    return folder
