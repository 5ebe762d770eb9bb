"""--mode=evaluate: evaluates the newest checkpoint of a run again."""

from sequencematch.cli import results, resume, workdir
from sequencematch.cli.job import Call, Job
from sequencematch.cli.training import count_tokens
from sequencematch.setup.build import Parts, make_plan


def prepare_evaluation(parts: Parts, call: Call) -> Job:
    """Restores the newest checkpoint; the job evaluates it and writes the results again.

    The facts of training in the summary come from the checkpoint and the old summary, not from here:
    another machine or version may evaluate a run than the one that trained it.

    Raises:
      ValueError, OSError: the run cannot be opened, or its summary is damaged or of a later step.
    """
    folder, raise_if_asked = call.folder, call.stop_requests.raise_if_asked
    call.resources.enter_context(workdir.lock(folder))
    state, saved, _ = resume.restore(parts, folder)
    facts = {key: saved[key] for key in resume.PROVENANCE} | count_tokens(make_plan(parts), state)
    facts |= {"seconds": {"train": saved["seconds"]}}
    # The old summary also knows the command, and its seconds include the last validation.
    facts |= resume.read_summary(folder / "summary.json", int(state.step))
    return Job(lambda: results.evaluate_and_report(parts, folder, state, facts, raise_if_asked))
