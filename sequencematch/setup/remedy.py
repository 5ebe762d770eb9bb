"""What to change in a run that takes more memory than there is."""

from collections.abc import Sequence

from ml_collections import ConfigDict

from sequencematch.models.attention import CHUNK
from sequencematch.setup.defaults import defaults, flatten

# Configuration keys that a part of the memory grows with.
NETWORK = ("model.d_model", "model.layers", "model.d_ff")
SLOTS = ("prompt_slots", "max_actions")
ANY = ("",)  # the beginning of every key


def remedy(config: ConfigDict, keys: Sequence[str], free: tuple[str, ...] = ANY) -> str:
    """What may be changed, so that a part that grows with these keys becomes smaller.

    Args:
      config: the run's.
      keys: with which the part grows.
      free: keys, or prefixes of keys, that may be changed; of a trained run only some.
    """
    m, fsdp = config.model, f"raise config.mesh.fsdp={config.mesh.fsdp}"
    if m.path or m.preset:
        keys = [key for key in keys if key not in NETWORK]  # the model has sizes of its own
    if not (keys := [key for key in keys if key.startswith(free)]):
        ways = ", ".join(other_models(config)) if free == ANY else "take a machine with more memory"
        return f"{ways} or {fsdp}"
    default, given = flatten(defaults()), flatten(config)
    # Suggest what was probably raised by mistake: the three keys furthest above their defaults.
    first = sorted(keys, key=lambda key: -given[key] / (default[key] or 1))[:3]
    advice = "lower " + " or ".join(f"config.{key}={given[key]}" for key in first)
    if config.task == "text" and not config.data.window and "max_actions" in first:
        advice += ", or cut documents (config.data.window)"
    slots = config.prompt_slots + max(config.max_actions, config.evaluate.max_actions)
    can_chunk = m.attention == "plain" and "model.attention".startswith(free)
    if can_chunk and slots > CHUNK and "prompt_slots" in keys:
        advice += ", or set config.model.attention=chunked"
    return advice


def other_models(config: ConfigDict) -> list[str]:
    """Ways to take less memory with a model that has sizes of its own."""
    m, ways = config.model, ["take a smaller model"]
    ways += ["train adapters (config.model.lora_rank)"] * (not m.lora_rank)
    return ways + ["keep kernels in 4 bits (config.model.lora_base=nf4)"] * (m.lora_base != "nf4")
