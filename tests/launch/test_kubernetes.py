"""The manifest against the schemas of Kubernetes and JobSet, and the image's Dockerfile."""

import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from aggnets_jax.commands import make_parser
from tests.runs import ROOT

MANIFEST = ROOT / "launch" / "gke_jobset.yaml"
DOCKERFILE = ROOT / "launch" / "Dockerfile"
# From PyPI it is beside Python.
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
SCHEMA = json.loads(Path(__file__).with_name("jobset_v1alpha2.schema.json").read_text())


def documents():
    return {d["kind"]: d for d in yaml.safe_load_all(MANIFEST.read_text()) if d}


def job_of(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "a"},
        "spec": replicated["template"]["spec"],
    }


def pod_of(jobset):
    return job_of(jobset)["spec"]["template"]["spec"]


def parsed(arguments):
    """Return the flags of the run, in the first pod."""
    arguments = [argument.replace("$(JOB_COMPLETION_INDEX)", "0") for argument in arguments]
    assert arguments[0] == "train"
    given = make_parser("train").parse(arguments[1:])
    assert not given.overrides
    return given


def with_gpus():
    """Return the manifest with the changes for GPUs in docs/pods.md."""
    page = (ROOT / "docs" / "pods.md").read_text()
    block = re.search(r"^    nodeSelector:\n(    .*\n)+", page, re.MULTILINE)[0]
    changes = yaml.safe_load(block)
    jobset = documents()["JobSet"]
    pod = pod_of(jobset)
    (change,), (container,) = changes.pop("containers"), pod["containers"]
    pod.update(changes)
    container.update({**change, "args": container["args"] + change["args"]})
    return jobset


JOBSETS = [documents()["JobSet"], with_gpus()]
VARIANTS = pytest.mark.parametrize("jobset", JOBSETS, ids=["tpu", "gpu"])


def check_jobset(jobset):
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    jsonschema.Draft202012Validator(SCHEMA).validate(jobset)
    for version in ("1.30", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(job_of(jobset), version, strict=True)


@VARIANTS
def test_the_jobset_fits_the_schemas(jobset):
    check_jobset(jobset)


def test_the_other_objects_fit_the_schemas():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    others = [d for kind, d in documents().items() if kind != "JobSet"]
    assert len(others) == 1
    for document in others:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(
    "place",
    [
        "spec",
        "spec.network",
        "spec.failurePolicy",
        "spec.failurePolicy.rules.0",
        "spec.replicatedJobs.0",
        "spec.replicatedJobs.0.template",
        "spec.replicatedJobs.0.template.spec",
        "spec.replicatedJobs.0.template.spec.podFailurePolicy.rules.0.onExitCodes",
        "spec.replicatedJobs.0.template.spec.template.spec.containers.0",
    ],
)
def test_the_schemas_refuse_a_field_that_is_none(place):
    """A mistake in a name would be found."""
    jobset = documents()["JobSet"]
    node = jobset
    for part in place.split("."):
        node = node[int(part) if part.isdigit() else part]
    node["restrats"] = 1
    with pytest.raises(Exception, match="restrats"):
        check_jobset(jobset)


def what_happens(jobset, exit_code, disrupted=False):
    """Return the action of JobSet when a container ends, by the rules of Job and JobSet.

    The messages are those of the controller of jobs (pkg/controller/job/pod_failure_policy.go).
    """
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job_of(jobset)["spec"]["podFailurePolicy"]["rules"]):
        codes, conditions = rule.get("onExitCodes"), rule.get("onPodConditions", [])
        end = f"matching {rule['action']} rule at index {index}"
        if codes and codes["operator"] == "In" and exit_code in codes["values"]:
            reason = "PodFailurePolicy"
            message = f"Container train for pod default/a-0 failed with exit code {exit_code} {end}"
            break
        if disrupted and any(c["type"] == "DisruptionTarget" for c in conditions):
            reason = "PodFailurePolicy"
            message = f"Pod default/a-0 has condition DisruptionTarget {end}"
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            return rule["action"]
    return "RestartJobSet"


@VARIANTS
def test_what_the_exit_codes_lead_to(jobset):
    for code in (2, 3):
        assert what_happens(jobset, code) == "FailJobSet"
    assert what_happens(jobset, 75) == "RestartJobSetAndIgnoreMaxRestarts"
    assert what_happens(jobset, 137, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    for code in (1, 74, 76, 137):
        assert what_happens(jobset, code) == "RestartJobSet"  # a limited number of times
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] > 0


@VARIANTS
def test_the_processes_are_as_many_as_machines_and_find_each_other(jobset):
    job, pod = job_of(jobset)["spec"], pod_of(jobset)
    (container,) = pod["containers"]
    given = parsed(container["args"])
    assert job["parallelism"] == job["completions"] == given.expected_processes
    assert job["completionMode"] == "Indexed"
    # By this name JAX asks for the first of them.
    name = jobset["metadata"]["name"]
    assert jobset["spec"]["network"] == {"enableDNSHostnames": True, "subdomain": name}
    if topology := pod["nodeSelector"].get("cloud.google.com/gke-tpu-topology"):
        chips = math.prod(map(int, topology.split("x")))
        assert chips == job["parallelism"] * container["resources"]["limits"]["google.com/tpu"]
    else:
        replicated = jobset["spec"]["replicatedJobs"][0]["name"]
        assert given.num_processes == job["parallelism"]
        assert given.coordinator_address.startswith(f"{name}-{replicated}-0-0.{name}:")
        assert "--process_id=$(JOB_COMPLETION_INDEX)" in container["args"]


@VARIANTS
def test_the_workdir_is_in_the_bucket_that_all_share(jobset):
    pod = pod_of(jobset)
    (container,) = pod["containers"]
    given = parsed(container["args"])
    data = {variable["name"]: variable["value"] for variable in container["env"]}
    assert given.workdir.startswith("gs://BUCKET/") and data["TFDS_DATA_DIR"] == "gs://BUCKET/tfds"
    assert pod["serviceAccountName"] == documents()["ServiceAccount"]["metadata"]["name"]
    assert (ROOT / given.config[0]).exists()


def instructions():
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line]


def test_the_image_has_what_it_needs_and_is_not_run_by_root():
    ignored = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"  # no environments and runs
    kept = {line[1:] for line in ignored if line.startswith("!")}
    copied = {s for name, what in instructions() if name == "COPY" for s in what.split()[:-1]}
    assert copied == kept
    assert all((ROOT / source).exists() for source in copied)
    users = [what for name, what in instructions() if name == "USER"]
    context = pod_of(documents()["JobSet"])["securityContext"]
    assert users == [f"{context['runAsUser']}:{context['runAsGroup']}"] == ["1000:1000"]
    (base,) = (what for name, what in instructions() if name == "FROM")
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base)


@pytest.mark.parametrize(
    ("accelerator", "installed"),
    [("cpu", "buckets"), ("tpu", "buckets,tpu"), ("cuda13", "buckets,cuda13"), ("gpu", None)],
)
def test_what_the_image_installs_for_an_accelerator(accelerator, installed):
    (command,) = (what for name, what in instructions() if name == "RUN" and "case" in what)
    stand_ins = 'pip() { echo "${@: -1}"; }; useradd() { :; }; '
    done = subprocess.run(
        ["bash", "-c", stand_ins + command],
        env={"ACCELERATOR": accelerator},
        capture_output=True,
        text=True,
    )
    if installed is None:
        assert done.returncode == 2
        assert done.stderr == "ACCELERATOR must be cpu, tpu or cuda13, got gpu\n"
    else:
        assert (done.returncode, done.stdout) == (0, f".[{installed}]\n")
        setup = (ROOT / "setup.py").read_text()
        assert all(f'"{extra}": ' in setup for extra in installed.split(","))


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    checked = subprocess.run([HADOLINT, DOCKERFILE], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
