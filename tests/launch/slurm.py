"""A SLURM of one node on this machine, for as long as tests take."""

import contextlib
import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests import runs

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CPUS = 16
SETTINGS = """
ClusterName=tests
SlurmctldHost={hostname}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# As many tasks as the tests have at once, on a machine of any size.
SlurmdParameters=config_overrides
KillWait=60
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=localhost NodeHostname={hostname} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=low Nodes=localhost Default=YES PriorityTier=1 MaxTime=INFINITE
PartitionName=high Nodes=localhost PriorityTier=2 MaxTime=INFINITE
"""


def find(program):
    """Where a program is; daemons are in folders that may not be in PATH."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def missing():
    return [program for program in PROGRAMS if find(program) is None]


class Slurm:
    """Its daemons, and its commands."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self, stack):
        # MUNGE refuses a folder that others could have written to.
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        with contextlib.ExitStack() as sockets:
            ports = []
            for _ in range(2):
                free = sockets.enter_context(socket.socket())
                free.bind(("localhost", 0))
                ports.append(free.getsockname()[1])
        settings = SETTINGS.format(
            hostname=socket.gethostname(),
            user=getpass.getuser(),
            folder=self.folder,
            cpus=CPUS,
            controller_port=ports[0],
            daemon_port=ports[1],
        )
        (self.folder / "slurm.conf").write_text(settings)
        files = {
            "socket": "munge.socket",
            "key-file": "munge.key",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
            "seed-file": "munge.seed",
        }
        flags = [f"--{flag}={self.folder / name}" for flag, name in files.items()]
        self._daemon(stack, "munged", "--foreground", "--force", *flags)
        self._wait(lambda: (self.folder / "munge.socket").exists())
        self._daemon(stack, "slurmctld", "-D", "-c")
        self._daemon(stack, "slurmd", "-D", "-c", "-N", "localhost")
        self._wait(lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", check=False))
        stack.callback(self.run, "scancel", "--user", getpass.getuser())

    def run(self, *command, check=True, **env):
        done = subprocess.run(
            [str(word) for word in command],
            cwd=runs.ROOT,
            env={**self.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done.stdout

    def submit(self, *arguments, **env):
        """Submit a job or an array; return its number."""
        return self.run("sbatch", "--parsable", *arguments, **env).strip()

    def job(self, job):
        """Return the fields that SLURM has for a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def wait_for(self, job, states, timeout=60):
        self._wait(lambda: self.job(job)["JobState"] in states.split(), timeout, job)
        return self.job(job)

    def wait_until_said(self, log, text, times=1, timeout=60):
        log = Path(log)
        self._wait(lambda: log.exists() and log.read_text().count(text) >= times, timeout, text)

    def _daemon(self, stack, program, *arguments):
        log = stack.enter_context((self.folder / f"{program}.log").open("w"))
        process = subprocess.Popen(
            [find(program), *arguments], env=self.env, stdout=log, stderr=subprocess.STDOUT
        )

        def end():
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()

        stack.callback(end)

    def _wait(self, condition, timeout=60, what="SLURM's daemons"):
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                logs = [log.read_text()[-2000:] for log in self.folder.glob("*.log")]
                raise AssertionError(f"waited {timeout} s for {what}\n" + "\n".join(logs))
            time.sleep(0.1)


@contextlib.contextmanager
def running():
    """Run SLURM within the context."""
    # The names of sockets must be short, which those of pytest's folders may not be.
    with tempfile.TemporaryDirectory(prefix="slurm_") as folder, contextlib.ExitStack() as stack:
        slurm = Slurm(Path(folder))
        slurm.start(stack)
        yield slurm
