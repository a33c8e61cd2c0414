"""The script for TPU VMs, with a stand-in for gcloud that runs what it is told on two "workers"."""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.marks import mostly_slow
from tests.runs import ROOT

LAUNCH = ROOT / "launch"
STAND_IN = Path(__file__).parent / "stand_in"
SLICE = ("--name=a", "--zone=us-east5-a", "--type=v6e-16", "--poll=0")
RUN = ("--config=configs/digits.py", "--workdir=/mnt/runs/a", "--config.model.name=a b")


def git(checkout, *arguments):
    return subprocess.run(
        ["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """With the scripts; they read it and leave it as it is."""
    checkout = tmp_path_factory.mktemp("tpu_vm") / "checkout"
    (checkout / "launch").mkdir(parents=True)
    for name in ("tpu_vm.sh", "tpu_worker.sh"):
        shutil.copy(LAUNCH / name, checkout / "launch")
    (checkout / "requirements.lock").touch()
    git(checkout, "init", "--quiet")
    git(checkout, "add", ".")
    git(checkout, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "a")
    return checkout


class Cloud:
    """The folder of a stand-in's cloud, and a checkout with the script."""

    def __init__(self, folder, checkout):
        self.folder = folder / "cloud"
        self.folder.mkdir()
        self.checkout = checkout
        self.commit = git(checkout, "rev-parse", "HEAD").strip()
        self.environment = {
            **os.environ,
            "CLOUD": str(self.folder),
            "PATH": f"{STAND_IN}:{os.environ['PATH']}",
        }

    def write(self, name, *lines):
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def start(self, *flags):
        return subprocess.Popen(
            ["bash", "launch/tpu_vm.sh", *flags],
            cwd=self.checkout,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *flags):
        """Exit code, stdout and stderr."""
        process = self.start(*flags)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def train(self, *flags):
        return self.run(*SLICE, *flags, "--", *RUN)

    def calls(self, pattern=""):
        """Return the calls of gcloud, without the flags that all calls have."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        lines = [line.removeprefix("compute tpus ") for line in lines]
        return [line.replace(" --zone=us-east5-a --quiet", "") for line in lines if pattern in line]

    def kinds(self):
        """Return the calls that change something, in short."""
        kinds = []
        for call in self.calls():
            group, action, *_ = call.split()
            worker = re.search(r"--command=bash tpu_worker.sh (\w+)", call)
            if action != "describe" and "status" not in call:
                kinds.append(worker[1] if worker else f"{group} {action}")
        return kinds


@pytest.fixture
def cloud(tmp_path, checkout):
    cloud = Cloud(tmp_path, checkout)
    yield cloud
    for pid in cloud.folder.glob("worker*/aggnets_run/pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


STARTED = ["tpu-vm scp", "install", "start", "follow"]


@pytest.mark.slow
def test_a_slice_is_made_and_after_a_preemption_made_again(cloud):
    cloud.write("runs", "preempted", 0)
    code, out, err = cloud.train("--spot", "--setup=touch mounted")
    assert code == 0, err
    assert cloud.kinds() == [
        "tpu-vm create",
        *STARTED,
        "tpu-vm delete",
        "tpu-vm create",
        *STARTED,
    ]
    assert set(cloud.calls("tpu-vm create")) == {
        "tpu-vm create a --accelerator-type=v6e-16 --spot --version=v2-alpha-tpuv6e"
    }
    line = "flags: --config=configs/digits.py --workdir=/mnt/runs/a --config.model.name=a b"
    assert out.splitlines() == [line, line]  # the same command, and nothing else
    for state in ("MISSING", "READY", "PREEMPTED"):
        assert f"tpu_vm: slice a: {state}" in err
    for worker in ("worker0", "worker1"):
        home = cloud.folder / worker
        assert (home / "mounted").exists()
        head = (home / "aggnets_checkout" / ".git" / "HEAD").read_text().strip()
        assert head == cloud.commit
        lock, package = (home / "pip").read_text().splitlines()
        assert "--require-hashes -r requirements.lock" in lock
        assert package.endswith("--editable .[tpu,buckets]")


@pytest.mark.parametrize("code", [0, 2, 3])
def test_the_exit_codes_after_which_a_run_is_not_started_again(cloud, code):
    cloud.write("runs", code)
    assert cloud.train()[0] == code
    assert cloud.kinds() == ["tpu-vm create", *STARTED]


@mostly_slow("code", [74, 75, 76, 137], quick=(1,))
def test_a_run_that_can_go_on_is_started_again_on_the_same_slice(cloud, code):
    cloud.write("runs", code, 0)
    assert cloud.train()[0] == 0
    assert cloud.kinds() == ["tpu-vm create", *STARTED, *STARTED]


def test_a_run_that_always_fails_is_given_up(cloud):
    cloud.write("runs", *[1] * 9)
    code, _, err = cloud.train("--max_failures=2", "--delete")
    assert code == 1
    assert cloud.kinds() == ["tpu-vm create", *STARTED, *STARTED, *STARTED, "tpu-vm delete"]
    assert "exit code 1" in err


def test_workers_that_wait_in_vain_while_the_slice_goes_away_are_no_mistake(cloud):
    """They end with 2, as after a mistake in the input."""
    cloud.write("runs", 2, 0)
    cloud.write("coming", "READY", "PREEMPTED")
    cloud.folder.joinpath("node").write_text("READY\n")
    for worker in ("worker0", "worker1"):
        (cloud.folder / worker).mkdir()
    code, _, err = cloud.train()
    assert code == 0, err
    assert cloud.kinds() == [*STARTED, "tpu-vm delete", "tpu-vm create", *STARTED]


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_the_run_outlives_the_script_and_is_followed_again_or_stopped(cloud):
    cloud.write("runs", "wait")
    log = cloud.folder / "worker0" / "aggnets_run" / "log"
    first = cloud.start(*SLICE, "--", *RUN)
    wait_for(lambda: "follow" in cloud.kinds() and log.read_text())
    os.killpg(first.pid, signal.SIGTERM)  # with gcloud's connection
    _, err = first.communicate(timeout=30)
    assert first.returncode == 130
    assert "the run goes on" in err

    code, _, err = cloud.run(*SLICE, "--", *RUN, "--config.lr=1")
    assert code == 2
    assert "slice a runs something else: --config=configs/digits.py" in err

    second = cloud.start(*SLICE, "--", *RUN)
    wait_for(lambda: cloud.kinds().count("follow") == 2)
    code, out, _ = cloud.run(*SLICE[:2], "--stop")
    assert (code, out) == (0, "saved\n")
    out, err = second.communicate(timeout=30)
    assert second.returncode == 75, err  # stopped on purpose: not started again
    assert out.splitlines()[1:] == ["saved"]
    assert cloud.kinds().count("start") == 1


@pytest.mark.slow
def test_a_lost_connection_loses_and_doubles_no_line_of_the_log(cloud):
    """Also not in the second log, of the second slice."""
    cloud.write("runs", "preempted", "count")
    cloud.write("breaks", 20, 0.7, 0.5)
    code, out, err = cloud.train()
    assert code == 0, err
    assert cloud.kinds().count("follow") == 4
    flags, *lines = out.splitlines()
    assert lines == [flags, *map(str, range(1, 21))]


def test_a_queued_resource_is_waited_for_and_replaced_when_it_is_suspended(cloud):
    cloud.write("runs", 0)
    cloud.write("queue", "SUSPENDED")
    code, _, err = cloud.train("--queued", "--spot", "--project=p")
    assert code == 0, err
    assert cloud.kinds() == ["queued-resources delete", "queued-resources create", *STARTED]
    assert cloud.calls("queued-resources create") == [
        "queued-resources create a --node-id=a --accelerator-type=v6e-16 --spot"
        " --runtime-version=v2-alpha-tpuv6e --project=p"
    ]
    for state in ("SUSPENDED", "MISSING", "PROVISIONING", "ACTIVE"):
        assert f"QUEUE_{state}" in err


def test_what_gcloud_refuses(cloud):
    cloud.write("runs", 0)
    cloud.write("refusals", "There is no more capacity in the zone")
    code, _, err = cloud.train()
    assert code == 0, err  # it waits
    cloud.run(*SLICE[:2], "--stop")
    cloud.folder.joinpath("node").unlink()
    cloud.write("refusals", "INVALID_ARGUMENT: no such type")
    code, _, err = cloud.train()
    assert code == 1
    assert err.endswith("no such type\nerror: the slice can't be made\n")
    code, _, err = cloud.run("--name=forbidden", *SLICE[1:], "--", *RUN)
    assert code == 1
    assert err.endswith("PERMISSION_DENIED\nerror: gcloud can't tell the state of the slice\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--nam=a"], "unknown flag '--nam'"),
        (["a"], "unknown flag 'a'"),
        (["--a]b=c"], "unknown flag '--a]b'"),
        (["--zone=b"], "--name is missing"),
        (["--name=a", "--zone=b", "--", *RUN], "--type is missing"),
        (["--name="], "--name needs a value"),
        (["--spot=yes"], "--spot takes no value"),
        ([*SLICE, "--poll=1.5", "--", *RUN], "--poll must be a whole number"),
        ([*SLICE, "--", "--config=configs/digits.py"], "--workdir=DIRECTORY"),
        ([*SLICE, "--", "--workdir=runs/a"], "must be in a bucket, gs://..., or absolute"),
        ([*SLICE, "--type=v9-8", "--", *RUN], "no image is known for --type=v9-8"),
        ([*SLICE, "--revision=none", "--", *RUN], "--revision=none is no revision"),
    ],
)
def test_mistakes_are_told_in_a_line_and_nothing_is_done(cloud, flags, message):
    code, out, err = cloud.run(*flags)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: .*\n", err)
    assert message in err
    assert not cloud.calls()


def dry_run(cloud, *flags):
    code, out, err = cloud.train("--dry_run", "--setup=sudo mount 10.0.0.2:/a /mnt", *flags)
    assert (code, err) == (0, "")
    assert not cloud.calls()
    return [line for line in out.splitlines() if not line.startswith("#")]


@mostly_slow("flags", [(), ("--spot", "--queued", "--project=p")], quick=(1,))
def test_a_dry_run_prints_the_commands(cloud, flags):
    printed = [shlex.split(line)[3:] for line in dry_run(cloud, *flags)]
    cloud.write("runs", "preempted", 0)
    assert cloud.train("--setup=sudo() { :; }; sudo mount 10.0.0.2:/a /mnt", *flags)[0] == 0
    done = {" ".join(call.split()[:2]) for call in cloud.calls()}
    assert {" ".join(call[:2]) for call in printed} == done


def lint(commands, folder):
    """Return what gcloud has against each command."""
    file = folder / "commands.json"
    file.write_text(json.dumps([{"command_string": line} for line in commands]))
    checked = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={file}"],
        env={**os.environ, "CLOUDSDK_CONFIG": str(folder)},
        capture_output=True,
        text=True,
    )
    return [result.get("error_message") for result in json.loads(checked.stdout)]


def documented(program):
    """Return the commands of a program in docs/pods.md."""
    page = re.sub(r"\\\n\s*", " ", (ROOT / "docs" / "pods.md").read_text())
    return re.findall(rf"^    ({program} .*)$", page, re.MULTILINE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_gcloud_knows_the_commands_of_the_documentation(tmp_path):
    commands = documented("gcloud")
    assert len(commands) >= 8
    assert lint(commands, tmp_path) == [None] * len(commands)


def test_the_script_takes_the_commands_of_the_documentation(cloud):
    commands = documented("launch/tpu_vm.sh")
    assert len(commands) >= 4
    for command in commands:
        code, _, err = cloud.run("--dry_run", *shlex.split(command)[1:])
        assert (code, err) == (0, ""), command


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
@pytest.mark.parametrize("flags", [(), ("--spot", "--queued", "--project=p")])
def test_gcloud_knows_the_commands_and_their_flags(cloud, flags, tmp_path):
    """It has a command that parses others, without running them or asking a server."""
    printed = dry_run(cloud, *flags)
    assert lint(printed, tmp_path) == [None] * len(printed)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_finds_nothing():
    scripts = [*LAUNCH.glob("tpu_*.sh"), *STAND_IN.iterdir()]
    checked = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
