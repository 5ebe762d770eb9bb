"""--mode=export: a finetuned model goes back to the Hugging Face world."""

from pathlib import Path

from flax import nnx

from sequencematch.cli import resume
from sequencematch.cli.choice import NEWEST
from sequencematch.cli.identity import frozen_checksum
from sequencematch.cli.job import Job
from sequencematch.models.lora import nf4_kernels
from sequencematch.models.pretrained.writer import check_new
from sequencematch.setup import pretrained
from sequencematch.setup.build import Parts
from sequencematch.setup.defaults import has_edits
from sequencematch.storage.console import to_stdout
from sequencematch.storage.files import expand


def prepare_export(
    parts: Parts, folder: Path, out: str, checkpoint: str = NEWEST, adapter: bool = False
) -> Job:
    """Restores a checkpoint, the newest sound one; the job writes it as a model directory.

    Args:
      parts: the run.
      folder: its work directory.
      out: the directory to write.
      checkpoint: which one.
      adapter: whether the adapters are written alone.

    Raises:
      ValueError, OSError: the run cannot be opened, did not begin with a pretrained model, or the
        directory holds something.
    """
    pretrained.tokenizer_of(parts)
    check_new(expand(out))
    state = resume.restore(parts, folder, checkpoint).state
    if adapter:
        check_base(parts)

    def write() -> None:
        params, step = parts.whole(state.params), int(state.step)
        export(parts, params, step, out, adapter)
        what = "adapters, as PEFT reads them," if adapter else "model"
        to_stdout(f"{out}/ holds the {what} of step {step:,}; its README.md says how to use it")

    return Job(write)


def check_base(parts: Parts) -> None:
    """Raises ValueError if what is not trained is another run's, and not of the model that is named."""
    if not parts.config.init.startswith(resume.RUN_PREFIX):
        return
    config = parts.config.copy_and_resolve_references()
    config.init = ""
    own = parts._replace(config=config)
    own = own.with_frozen(pretrained.read_parameters(own))
    if frozen_checksum(own) != frozen_checksum(parts):
        raise ValueError(
            f"this run did not begin with the weights in {config.model.path}, but with those of "
            f"config.init={parts.config.init!r}: export the model, without --adapter"
        )


def export(
    parts: Parts, params: nnx.State, step: int, out: str | Path, adapter: bool = False
) -> None:
    """Writes a model directory, or an adapter's, with what its card tells of the run.

    Raises:
      ValueError, OSError: as of `pretrained.export`.
    """
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
    if adapter and nf4_kernels(parts.whole(parts.like.params)):
        facts["trained on"] = "a base in 4 bits (NF4); on the same base in floats its logits differ"
    write = pretrained.export_adapter if adapter else pretrained.export
    write(parts, params, out, facts)
