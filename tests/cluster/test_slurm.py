"""cluster/slurm.sbatch: bash and shellcheck, and run on two hosts of the lab with stand-ins for Slurm's commands."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/slurm.sbatch"
SHELL_FILES = [SCRIPT, ROOT / "tests/cluster/lab.sh"]

# srun starts its command on every other node with the environment of the job; the search is one that says its nodes.
STAND_INS = {
    "scontrol": "printf '%s\\n' 10.200.0.10 10.200.0.11",
    "srun": """
export -p > /mnt/shared/environment
while [[ $1 == --* ]]; do shift; done
exec ssh -i /mnt/shared/lab_key -o StrictHostKeyChecking=no 10.200.0.11 "source /mnt/shared/environment; exec $*"
""",
    "python": """
[ "$2" = vadtune.search ] || exit 9
[ "$3" = endless ] && { trap 'echo saved; exit 130' TERM; touch /mnt/shared/began; while :; do sleep 0.1; done; }
RAY_ADDRESS=${!#} exec /mnt/shared/vadtune-env/bin/python tests/cluster/each_node.py "${@:3}"
""",
}
JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_CPUS_PER_TASK": "2",
    "HOME": "/mnt/shared/home",
}


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_bash_reads_it(path: Path):
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path):
    if not shutil.which("shellcheck"):
        pytest.skip("no shellcheck here")
    found = subprocess.run(["shellcheck", str(path)], capture_output=True, text=True, check=False)
    assert found.stdout == ""


def test_the_first_lines_are_commands_that_use_it():
    head = SCRIPT.read_text().split("#SBATCH")[0]
    assert "sbatch cluster/slurm.sbatch mnist" in head
    assert "--resume" in head


@pytest.fixture(scope="module")
def slurm(lab):
    """What runs a shell command on the head as Slurm's batch step."""
    tools = lab.shared / "bin"
    tools.mkdir()
    (lab.shared / "home").mkdir()
    shutil.copy(lab.shared.parent / "key", lab.shared / "lab_key")
    for name, body in STAND_INS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body}\n")
        (tools / name).chmod(0o755)
    variables = " ".join(f"{key}={value!r}" for key, value in JOB.items())
    return lambda command: lab("run", "head", f"export {variables} PATH=/mnt/shared/bin:$PATH; {command}")


@pytest.mark.cluster
def test_a_job_runs_the_search_on_all_its_nodes_and_leaves_nothing(lab, slurm):
    done = slurm("bash cluster/slurm.sbatch mnist --model vad")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    assert said["hosts"] == ["head", "worker1"]
    assert said["arguments"] == ["mnist", "--model", "vad", "--address", "10.200.0.10:24711"]
    assert lab("run", "head", "pgrep -x 'raylet|gcs_server'").stdout == ""
    assert not list((lab.shared / "home/.ray").iterdir())


@pytest.mark.cluster
def test_the_search_may_save_itself_before_the_time_is_over(slurm):
    wait = "while kill -0 $job && [ ! -e /mnt/shared/began ]; do sleep 0.1; done"
    script = "SLURM_JOB_NUM_NODES=1 bash cluster/slurm.sbatch endless"
    done = slurm(f"{script} & job=$!; {wait}; kill -TERM $job; wait $job")
    assert done.returncode == 130, done.stdout[-3000:] + done.stderr[-3000:]
    assert "saved" in done.stdout
