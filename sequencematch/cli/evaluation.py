"""--mode=evaluate: the newest checkpoint of a run, evaluated again."""

from sequencematch.cli import results, resume, workdir
from sequencematch.cli.job import Call, Job
from sequencematch.cli.training import count_tokens
from sequencematch.setup.build import Parts, make_plan


def prepare_evaluation(run: Parts, call: Call) -> Job:
    """Judges the newest checkpoint again; what the run said of its training is kept."""
    folder = call.folder
    call.held.enter_context(workdir.lock(folder))
    state, facts, _ = resume.restore(run, folder)
    known = {key: facts[key] for key in resume.MADE} | count_tokens(make_plan(run), state)
    known |= {"seconds": {"train": facts["seconds"]}}
    known |= resume.read_summary(folder / "summary.json", int(state.step))
    return Job(
        lambda: results.publish(run, folder, state, known, call.stop_requests.raise_if_asked)
    )
