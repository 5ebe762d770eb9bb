"""The scripts in launch/: short, sound, and ending in the command line of this package."""

import os
import shlex
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from sequencematch.cli.flags import parse_flags

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
NAMED = {"TPU": "t", "ZONE": "z", "TYPE": "v4-32", "CLUSTER": "c", "IMAGE": "i"}
FLAGS = ["--config=arithmetic", "--workdir=/with a space/run", "--config.edits=('<bkspc>',)"]


def run(script, *flags, path=(), **environment):
    env = os.environ | NAMED | environment
    env["PATH"] = os.pathsep.join([*map(str, path), str(Path(sys.executable).parent), env["PATH"]])
    return subprocess.run(
        [str(script), *flags], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )


def test_scripts_are_short_and_sound():
    assert [path.stem for path in SCRIPTS] == ["gke", "gpu", "slurm", "tpu_pod"]
    assert all(len(path.read_text().splitlines()) <= 40 for path in SCRIPTS)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    found = subprocess.run([shellcheck, *SCRIPTS], capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("", 0)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_dry_run_prints_every_command_and_runs_none(script):
    done = run(script, "--dry_run", *FLAGS, path=[])
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config=arithmetic" in done.stdout
    # The two that work from afar call themselves on the hosts.
    here = ["--here"] if "--here" in done.stdout else []
    last = run(script, "--dry_run", *here, *FLAGS).stdout.splitlines()
    words = shlex.split(next(line for line in last if "sequencematch.main" in line))
    at = words.index("python")
    assert words[at : at + 3] == ["python", "-m", "sequencematch.main"]
    asked = parse_flags(["main.py", *words[at + 3 :]])
    assert asked.flags.resume and asked.flags.workdir == "/with a space/run"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_dry_run_that_is_asked_for_at_the_end_starts_nothing(script, tools):
    done = run(script, *FLAGS, "--dry_run", path=[tools], STATE="READY", CODE="0")
    assert (done.returncode, done.stdout) == (2, "") and "goes first" in done.stderr


@pytest.mark.parametrize(
    "kind, image",
    [
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-32", "v2-alpha-tpuv5"),
        ("v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_a_slice_is_made_with_the_image_of_its_type(kind, image):
    """cloud.google.com/tpu/docs/runtimes has the table."""
    made = run(ROOT / "launch" / "tpu_pod.sh", "--dry_run", *FLAGS, TYPE=kind, SPOT="1").stdout
    assert f"--version={image} --spot" in made


def test_no_slice_is_given_an_archive_of_nothing(tools, tmp_path):
    """Outside a git repository there is no list of files: the old tree would be trained on."""
    copy = tmp_path / "launch"
    copy.mkdir()
    (copy / "tpu_pod.sh").write_text((ROOT / "launch" / "tpu_pod.sh").read_text())
    (copy / "tpu_pod.sh").chmod(0o755)
    done = run(copy / "tpu_pod.sh", *FLAGS, path=[tools], STATE="READY")
    assert done.returncode and "scp" not in done.stdout and "ssh" not in done.stdout


def test_flags_reach_the_hosts_as_they_are():
    """Through the quoting of a shell that starts another."""
    for name, flag in (("gke", "--command="), ("tpu_pod", "--command=")):
        lines = run(ROOT / "launch" / f"{name}.sh", "--dry_run", *FLAGS).stdout.splitlines()
        words = next(shlex.split(line) for line in lines if "--here" in line)
        (command,) = [word for word in words if word.startswith(flag)]
        assert shlex.split(command)[-len(FLAGS) :] == FLAGS


@pytest.fixture
def tools(tmp_path):
    """A folder of commands that stand for a cluster's: srun starts what it is given, a GPU each."""
    folder = tmp_path / "bin"
    folder.mkdir()
    bodies = {
        "srun": 'echo "$SRUN_CPUS_PER_TASK" cores\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"',
        "nvidia-smi": "echo GPU 0\necho GPU 1",
        # Of a slice that is there it says the state.
        "gcloud": '[[ $4 != describe ]] || { echo "$STATE"; [[ "$STATE" ]]; exit; }\necho "$4"',
        "scontrol": 'echo scontrol "$@"',
        "python": 'echo python "$@"\nexit "$CODE"',
    }
    for name, body in bodies.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("code, requeues", [(0, False), (2, False), (75, True)])
@pytest.mark.parametrize("array", [False, True])
def test_an_interrupted_job_is_requeued_and_no_other(tools, code, requeues, array):
    """Of an array one task, and not all: the array's number would name them."""
    job = {"SLURM_JOB_ID": "12", "CODE": str(code), "SLURM_CPUS_PER_TASK": "7"}
    job |= {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"} if array else {}
    done = run(ROOT / "launch" / "slurm.sh", *FLAGS, path=[tools], **job)
    assert done.returncode == code
    name = "12_3" if array else "12"
    assert (f"scontrol requeue {name}\n" in done.stdout) == requeues
    assert ("scontrol" in done.stdout) == requeues
    assert "--resume" in done.stdout and ("--config.seed=3" in done.stdout) == array
    assert "7 cores" in done.stdout


def test_a_signal_to_the_script_reaches_the_run(tools):
    """The script becomes the run."""
    (tools / "python").write_text(
        "#!/usr/bin/env bash\ntrap 'exit 75' TERM\necho up\nwhile :; do :; done"
    )
    env = os.environ | NAMED | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        [ROOT / "launch" / "gpu.sh", *FLAGS], env=env, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 75


@pytest.mark.parametrize("visible, count", [(None, 2), ("5", 1), ("0,3,4", 3)])
def test_a_batch_is_divided_among_the_gpus_that_may_be_used(tools, visible, count):
    environment = {"CODE": "0"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    done = run(ROOT / "launch" / "gpu.sh", *FLAGS, path=[tools], **environment)
    assert f"--config.mesh.data={count} --config=arithmetic" in done.stdout


@pytest.mark.parametrize("said", ["echo NVIDIA-SMI has failed; exit 9", "echo No devices"])
def test_without_a_gpu_it_says_what_is_wrong(tools, said):
    (tools / "nvidia-smi").write_text(f"#!/usr/bin/env bash\n{said}")
    done = run(ROOT / "launch" / "gpu.sh", *FLAGS, path=[tools])
    said = said.removeprefix("echo ").partition(";")[0]
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"launch/gpu.sh: nvidia-smi lists no GPU: {said}\n"


def test_a_mesh_that_is_named_is_left_as_it_is(tools):
    done = run(ROOT / "launch" / "gpu.sh", *FLAGS, "--config.mesh.fsdp=2", path=[tools], CODE="0")
    assert "mesh.fsdp=2" in done.stdout and "mesh.data" not in done.stdout


@pytest.mark.parametrize("name", ["gke", "tpu_pod"])
def test_hosts_need_a_work_directory_that_they_share(tools, name):
    done = run(ROOT / "launch" / f"{name}.sh", "--config=arithmetic", path=[tools])
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"launch/{name}.sh: name --workdir=DIR that all hosts mount\n"


@pytest.mark.parametrize(
    "state, made",
    [("", ["create"]), ("READY", []), ("PREEMPTED", ["delete", "create"]), ("STOPPED", ["start"])],
)
def test_a_slice_is_made_where_there_is_none_and_gets_the_tree(tools, tmp_path, state, made):
    (tools / "tar").write_text(f'#!/usr/bin/env bash\ntr "\\0" "\\n" >{tmp_path}/packed')
    (tools / "tar").chmod(0o755)
    done = run(ROOT / "launch" / "tpu_pod.sh", *FLAGS, path=[tools], STATE=state)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*made, "scp", "ssh", "ssh"]
    if (ROOT / ".git").exists():
        packed = (tmp_path / "packed").read_text().split()
        assert {"setup.cfg", "launch/tpu_pod.sh", "sequencematch/main.py"} <= set(packed)
        assert not any(name.startswith((".venv", "runs/")) for name in packed)


def test_a_slice_loses_what_an_earlier_tree_brought_and_nothing_else(tools, tmp_path):
    """A run may lie in the tree."""
    write = f'[[ "$x" != --command=mkdir* ]] || printf %s "${{x#*=}}" >{tmp_path}/asked'
    (tools / "gcloud").write_text(f"#!/usr/bin/env bash\nfor x; do {write}; done\necho READY")
    (tools / "tar").write_text("#!/usr/bin/env bash\ncat >/dev/null")
    (tools / "tar").chmod(0o755)
    assert not run(ROOT / "launch" / "tpu_pod.sh", *FLAGS, path=[tools]).returncode
    place = (tmp_path / "asked").read_text().partition(" && pip install")[0]
    assert place.endswith(">.files")

    def bring_tree(*names):
        with tarfile.open(tmp_path / "sequencematch.tgz", "w:gz") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        subprocess.run(["bash", "-c", place], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)

    bring_tree("setup.cfg", "sequencematch/old name.py")
    mine = tmp_path / "sequencematch" / "out" / "run"
    mine.mkdir(parents=True)
    (mine / "config.json").touch()
    bring_tree("setup.cfg", "sequencematch/new.py")
    files = {path.name for path in (tmp_path / "sequencematch").rglob("*") if path.is_file()}
    assert files == {".files", "setup.cfg", "new.py", "config.json"}
