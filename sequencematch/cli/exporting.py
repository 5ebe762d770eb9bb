"""--mode=export: a finetuned model goes back to the Hugging Face world."""

from pathlib import Path

from flax import nnx

from sequencematch.cli import resume
from sequencematch.cli.choice import NEWEST
from sequencematch.cli.frozen import with_models_own
from sequencematch.cli.identity import frozen_checksum
from sequencematch.cli.job import Job
from sequencematch.cli.workdir import RUN_PREFIX
from sequencematch.data.fields import write_turns
from sequencematch.models.lora import nf4_kernels
from sequencematch.models.pretrained.configs import DTYPES, read_config, stored_dtype
from sequencematch.models.pretrained.writer import check_new
from sequencematch.setup import pretrained
from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import has_edits
from sequencematch.setup.examples import chats_of
from sequencematch.storage.console import to_stdout
from sequencematch.storage.files import expand


def prepare_export(
    parts: Parts,
    folder: Path,
    out: str,
    checkpoint: str = NEWEST,
    adapter: bool = False,
    dtype: str | None = None,
) -> Job:
    """Restores a checkpoint, the newest sound one; the job writes it as a model directory.

    Args:
      parts: the run.
      folder: its work directory.
      out: the directory to write.
      checkpoint: which one.
      adapter: whether the adapters are written alone.
      dtype: what the weights of a model are stored in; None for that of the model it began with.

    Raises:
      ValueError, OSError: the run cannot be opened, did not begin with a pretrained model, has no
        adapters to write alone, or the directory holds something.
    """
    pretrained.tokenizer_of(parts)
    pretrained.check_parameters(parts)
    check_new(expand(out))
    if adapter:
        pretrained.check_adapter(parts)
    state = resume.restore(parts, folder, checkpoint).state
    if adapter:
        check_base(parts)

    def write() -> None:
        params, step = parts.whole(state.params), int(state.step)
        export(parts, params, step, expand(out).absolute(), adapter, dtype)
        what = "adapters, as PEFT reads them," if adapter else "model"
        to_stdout(f"{out}/ holds the {what} of step {step:,}; its README.md says how to use it")
        if not adapter:
            for what, how in rounded_weights(parts, dtype).items():
                to_stdout(f"{what}: {how}; --dtype=float32 keeps them as they are")

    return Job(write)


def rounded_weights(parts: Parts, dtype: str | None) -> dict[str, str]:
    """What a model card says of weights that are stored with fewer bits than they were trained with."""
    stored = dtype or stored_dtype(read_config(parts.config.model.path))
    return {"weights": f"rounded to {stored} after training"} if stored != "float32" else {}


def check_adapter(parts: Parts) -> None:
    """Raises ValueError if a run has no adapters to write alone, or their base is none of its own."""
    pretrained.tokenizer_of(parts)
    pretrained.check_adapter(parts)
    check_base(parts)


def check_base(parts: Parts) -> None:
    """Raises ValueError if what is not trained is another run's, and not of the model that is named."""
    config = parts.config
    if not config.init.startswith(RUN_PREFIX):
        return
    own = with_models_own(parts)
    if own is None or frozen_checksum(own) != frozen_checksum(parts):
        raise ValueError(
            f"this run did not begin with the weights in {config.model.path}, but with those of "
            f"config.init={config.init!r}: export the model, without --adapter"
        )


def export(
    parts: Parts,
    params: nnx.State,
    step: int,
    out: str | Path,
    adapter: bool = False,
    dtype: str | None = None,
) -> None:
    """Writes a model directory, or an adapter's, with what its card tells of the run.

    Raises:
      ValueError, OSError: as of `pretrained.export`, or there is no such dtype, or no pretrained model.
    """
    if dtype not in (None, *DTYPES) or (adapter and dtype):
        raise ValueError(
            f"dtype={dtype!r} must be one of {', '.join(DTYPES)}, and goes with a model"
        )
    pretrained.tokenizer_of(parts)
    config = parts.config
    facts = {
        "finetuned from": Path(config.model.path).name,
        "task": parts.task.name,
        "method": config.method,
        "steps": f"{step:,} of {config.train.steps:,}",
    }
    if has_edits(config):
        kind, eta = config.noise.kind, config.noise.eta
        facts["noise"] = kind if kind == "none" else f"{kind}, {eta} a token"
    if write_chat := chats_of(config, parts.tokenizer):
        in_lines = "chats, a line `role: text` for each turn"
        by_template = "chats, as the tokenizer's chat template writes them"
        facts["prompts"] = in_lines if write_chat is write_turns else by_template
    if adapter and nf4_kernels(parts.whole(parts.like.params)):
        facts["trained on"] = "a base in 4 bits (NF4); on the same base in floats its logits differ"
    if adapter:
        pretrained.export_adapter(parts, params, out, facts)
    else:
        pretrained.export(parts, params, out, facts | rounded_weights(parts, dtype), dtype)
