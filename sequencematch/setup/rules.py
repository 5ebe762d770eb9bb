"""The allowed values of each configuration key."""

import numpy as np

from sequencematch.core.divergences import DIVERGENCES
from sequencematch.core.objective import WEIGHTINGS
from sequencematch.core.rewards import NEXT_VALUES, TERMINALS
from sequencematch.data.checkers import CHECKERS
from sequencematch.data.checks import LONG
from sequencematch.data.fields import LAYOUTS
from sequencematch.data.noise import NOISE_STEPS, WRONG_TOKENS
from sequencematch.data.splits import SPLITS
from sequencematch.data.tokenizer import EDITS
from sequencematch.models.attention import ATTENTION
from sequencematch.models.lora import BASES
from sequencematch.models.pretrained.presets import PRESETS
from sequencematch.models.transformer import REMAT
from sequencematch.setup.values import (
    Rule,
    can_be_folder,
    count,
    count_or_zero,
    decay,
    fraction,
    fraction_below_one,
    is_path,
    is_pattern,
    is_pattern_of_bytes,
    is_project,
    is_start,
    non_negative,
    one_of,
    one_of_or_none,
    positive,
    seed,
    some_of,
)
from sequencematch.train.methods import METHODS

TYPE_NAMES = {
    bool: "True or False",
    int: "an integer",
    float: "a finite float32 number",
    str: "a string",
}

TINY, HUGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
# Of the types that may stand for a float32: jax takes integers of 32 bits.
LARGEST = {float: HUGE, int: 2**31 - 1}

RULES: dict[str, Rule] = {
    "method": one_of(METHODS),
    "seed": seed,
    "data.dir": Rule("a folder that exists or can be created", can_be_folder),
    "data.source": one_of(("generator", "tfds")),
    "data.path": Rule("a path", is_path),
    "data.checker": one_of(CHECKERS),
    "data.module": Rule("an identifier of letters, digits and _", str.isidentifier),
    "data.bases": Rule("in 2..16", lambda bases: all(b in range(2, 17) for b in bases)),
    # Entropy is log10 of the number of operand pairs, so at 100 the numbers have about 100 digits;
    # generating longer ones takes too long.
    "data.entropy": Rule(
        "a range (low, high), 0 <= low <= high <= 100",
        lambda e: len(e) == 2 and 0 <= e[0] <= e[1] <= 100,
    ),
    # With five, finding what can be made of them takes ten minutes for 30,000 problems.
    "data.numbers": Rule("in [2, 4]", lambda x: 2 <= x <= 4),
    "data.validation_path": Rule("a path", is_path),
    "data.test_path": Rule("a path", is_path),
    "data.fields": one_of(LAYOUTS),
    "data.long": one_of(LONG),
    "data.corpus": Rule("stdlib, files:GLOB or tfds:NAME[/SPLIT]", is_path),
    "data.divider": Rule("a regular expression, of bytes", is_pattern_of_bytes),
    "data.tokenizer": Rule("characters, bytes, or a folder", is_path),
    "data.separator": Rule("a text, or ''", lambda x: x == x.encode(errors="ignore").decode()),
    "data.window": Rule("0 or in [8, 2**31)", lambda x: x == 0 or 8 <= x < 2**31),
    "data.prompt": count_or_zero,
    "data.test_share": Rule("in (0, 0.5]", lambda x: 0 < x <= 0.5),
    "data.train": count_or_zero,
    "data.validation": count_or_zero,
    "data.test": count_or_zero,
    "data.seed": seed,
    "data.split": one_of(SPLITS),
    "prompt_slots": Rule("0 or in [2, 2**31)", lambda x: x == 0 or 2 <= x < 2**31),
    "max_actions": count_or_zero,
    "edits": some_of(EDITS),
    "noise.kind": one_of(WRONG_TOKENS),
    "noise.eta": fraction_below_one,
    "noise.run": fraction_below_one,
    "noise.step": one_of(NOISE_STEPS),
    "noise.max_cut": fraction,
    "model.path": Rule("a directory, or ''", lambda path: "\0" not in path),
    "model.preset": one_of_or_none(PRESETS),
    # The initial parameters of each layer are drawn on their own.
    "model.layers": Rule("in [1, 1000]", lambda x: 1 <= x <= 1000),
    "model.d_model": count,
    "model.heads": count,
    "model.kv_heads": count,
    "model.d_ff": count,
    "model.rope_base": Rule(">= 1", lambda x: x >= 1),
    "model.dtype": one_of(("auto", "float32", "bfloat16")),
    "model.attention": one_of(ATTENTION),
    "model.remat": one_of(REMAT),
    "model.lora_rank": count_or_zero,
    "model.lora_alpha": positive,
    "model.lora_targets": Rule("a regular expression", is_pattern),
    "model.lora_base": one_of(BASES),
    "optimizer.learning_rate": positive,
    "optimizer.warmup": count_or_zero,
    "optimizer.final": fraction,
    "optimizer.weight_decay": non_negative,
    "optimizer.b1": decay,
    "optimizer.b2": decay,
    "optimizer.clip": positive,
    "train.steps": count,
    "train.batch_size": count,
    "init": Rule("'', 'run:DIR' or 'adapter:DIR'", is_start),
    "train.accumulate": count,
    "train.bc_steps": count_or_zero,
    "train.beta_end": fraction,
    "train.frozen": Rule("a regular expression", is_pattern),
    "train.unfrozen": Rule("a regular expression", is_pattern),
    "train.skip_nonfinite": count_or_zero,
    "objective.divergence": one_of(DIVERGENCES),
    "objective.alpha": positive,
    "objective.gamma": Rule("in (0, 1], as a float32", lambda x: 0 < np.float32(x) <= 1),
    "objective.policy_weight": fraction,
    "objective.weighting": one_of(WEIGHTINGS),
    "objective.terminal": one_of(TERMINALS),
    "objective.next_value": one_of(NEXT_VALUES),
    # Beyond, float32 rounds the point where the slope is t_max onto the end of phi's domain.
    "objective.t_max": Rule("in (1, 1e4], as a float32", lambda x: 1 < np.float32(x) <= 1e4),
    # iql_offline sets alpha to 4 td_weight.
    "objective.td_weight": Rule(
        "> 0, and 4 times it a finite float32", lambda x: 0 < x <= HUGE / 4
    ),
    "rollout.every": count,
    "rollout.rows": count,
    "rollout.capacity": count,
    "rollout.batch_size": count,
    "mesh.data": count,
    "mesh.fsdp": count,
    "mesh.model": count,
    "log_every": count,
    "wandb": Rule("'', PROJECT or ENTITY/PROJECT", is_project),
    "evaluate.every": count,
    "evaluate.examples": count,
    "evaluate.rows": count,
    "evaluate.max_actions": count_or_zero,
    "evaluate.stop_at": count_or_zero,
    "evaluate.decodings": Rule(
        "a tuple with 'greedy' and 'sampled', which validation uses, and no name twice",
        lambda names: {"greedy", "sampled"} <= set(names) and len(names) == len(set(names)),
    ),
    "evaluate.edit_threshold": Rule("in (0, 1)", lambda x: 0 < x < 1),
    "evaluate.temperature": positive,
    "evaluate.samples": count,
    "evaluate.traces": count_or_zero,
    "checkpoint.every": count,
    "checkpoint.keep": count,
    "checkpoint.keep_every": count_or_zero,
}
