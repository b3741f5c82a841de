"""The manifests render and are valid, and their command lines parse. No cluster is needed."""

import json

import kubernetes_validate
import pytest
from jsonschema import Draft202012Validator, ValidationError
from manifests import OVERLAYS, ROOT, arguments, config_text, environment, of_kind, pods, render

from flysoma.tasks.config import parse_config
from flysoma.tasks.faults import HALTING_CODES, RETIRED_CODE
from flysoma.tasks.fleet.served import NotATask, ServedRuns

FOLDERS = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
VERSIONS = ["1.31", "1.37"]
KEDA = Draft202012Validator(json.loads((ROOT / "tests/data/keda.schema.json").read_text()))


@pytest.fixture(scope="module", params=FOLDERS)
def documents(request):
    return render(request.param)


def test_every_overlay_is_tested():
    assert {path.name for path in (ROOT / "k8s/overlays").iterdir()} == set(OVERLAYS)


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(documents, version):
    for document in documents:
        if document["apiVersion"].startswith("keda.sh/"):
            KEDA.validate(document)
        else:
            kubernetes_validate.validate(document, version, strict=True)


def test_what_every_deployment_has(documents):
    kinds = {document["kind"] for document in documents}
    assert kinds >= {"Namespace", "ServiceAccount", "ConfigMap", "Deployment", "Job"}
    assert kinds >= {"NetworkPolicy", "PodDisruptionBudget"}
    everywhere = {"Namespace", "PersistentVolume"}
    assert {d["metadata"].get("namespace") for d in documents if d["kind"] not in everywhere} == {
        "flysoma"
    }


def test_every_command_line_is_one_of_flysoma(documents):
    from flysoma.scripts.cli import cli

    for name, pod in pods(documents).items():
        (container,) = pod["containers"]
        assert "command" not in container, f"{name}: the image's entrypoint is flysoma"
        verb, *rest = arguments(container, documents)
        parsed = cli.get_command(None, verb).make_context(verb, rest)
        assert parsed.params, name


def test_every_stage_has_workers(documents):
    """The Job puts tasks into the queues of the two Deployments, and starts no worker."""
    found = {
        name: arguments(pod["containers"][0], documents) for name, pod in pods(documents).items()
    }
    (job,) = (words for words in found.values() if words[0] == "run")
    options = dict(zip(job[2::2], job[3::2]))
    assert options["--workers"] == "0"
    assert options["--queue"] == found["flysoma-gpu-worker"][1]
    assert options["--cpu-queue"] == found["flysoma-cpu-worker"][1]


def test_workers_serve_the_run_of_the_config_and_not_the_whole_store(documents):
    output = parse_config(config_text(documents), "config.yaml").output
    for name, pod in pods(documents).items():
        if name.endswith("worker"):
            words = arguments(pod["containers"][0], documents)
            served = ServedRuns(words[1], [words[words.index("--runs") + 1]])
            served.check(output)
            with pytest.raises(NotATask):
                served.check("gs://another-bucket/run")


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_workers_of_the_gpu_queue_ask_for_a_gpu(name):
    asking = {
        name
        for name, pod in pods(render(f"overlays/{name}")).items()
        if "nvidia.com/gpu" in pod["containers"][0]["resources"].get("limits", {})
    }
    assert asking == (set() if name == "local" else {"flysoma-gpu-worker"})


def test_the_config_in_the_config_map_is_one(documents):
    assert parse_config(config_text(documents), "config.yaml").output
    (job,) = of_kind(documents, "Job").values()
    container = job["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert arguments(container, documents)[1] == mounts["config"] + "/config.yaml"


def test_pods_keep_to_little_rights_and_can_write_what_they_must(documents):
    for pod in pods(documents).values():
        (container,) = pod["containers"]
        assert (
            pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        )
        assert pod["serviceAccountName"] == "flysoma"
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
        writable = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}
        paths = [m["mountPath"] for m in container["volumeMounts"] if m["name"] in writable]
        assert sorted(paths) == ["/home/flysoma", "/tmp"]
        assert environment(container, documents)["HOME"] in paths
        assert {"requests", "limits"} == set(container["resources"])
        assert not any("secret" in volume for volume in pod["volumes"]), "no key files"


def test_the_job_ends_for_good_where_the_table_of_faults_halts_a_run(documents):
    (job,) = of_kind(documents, "Job").values()
    codes = [
        (rule["action"], rule["onExitCodes"]["operator"], set(rule["onExitCodes"]["values"]))
        for rule in job["spec"]["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    ]
    assert codes == [("FailJob", "In", HALTING_CODES)]
    assert RETIRED_CODE not in HALTING_CODES


@pytest.mark.parametrize(("name", "seconds"), [("gke", 15), ("eks", 120)])
def test_a_worker_on_a_spot_machine_uses_the_notice_that_the_cloud_gives(name, seconds):
    for pod_name, pod in pods(render(f"overlays/{name}")).items():
        if pod_name.endswith("worker"):
            assert pod["terminationGracePeriodSeconds"] == seconds


def test_a_worker_gives_back_what_it_has_before_its_pod_is_killed(documents):
    from flysoma.scripts.runs.work import command

    for name, pod in pods(documents).items():
        if name.endswith("worker"):
            words = arguments(pod["containers"][0], documents)[1:]
            grace = command.make_context("work", words).params["grace"]
            assert grace + 3 < pod["terminationGracePeriodSeconds"], name


def test_a_worker_restarts_before_the_kernel_kills_it(documents):
    for name, pod in pods(documents).items():
        (container,) = pod["containers"]
        limits, words = container["resources"]["limits"], arguments(container, documents)
        if name.endswith("worker"):
            limit = float(limits["memory"].removesuffix("Gi")) * 1.074  # GB
            assert float(words[words.index("--max-memory") + 1]) < 0.9 * limit
        size = sum(
            int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))
            for volume in pod["volumes"]
            if "emptyDir" in volume
        )
        assert size < int(limits["ephemeral-storage"].removesuffix("Gi"))


@pytest.mark.parametrize("name", ["gke", "eks"])
def test_workers_prefer_spot_nodes_and_run_without_them(name):
    for worker, pod in pods(render(f"overlays/{name}")).items():
        if worker.endswith("worker"):
            (preferred,) = pod["affinity"]["nodeAffinity"].values()
            assert any("spot" in str(term).lower() for term in preferred)
            assert "spot" not in str(pod.get("nodeSelector", "")).lower()


def test_nothing_comes_in_but_for_the_counters(documents):
    (policy,) = of_kind(documents, "NetworkPolicy").values()
    assert policy["spec"]["policyTypes"] == ["Ingress"] and policy["spec"]["podSelector"] == {}
    (allowed,) = policy["spec"]["ingress"]
    assert allowed["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    for name, pod in pods(documents).items():
        (container,) = pod["containers"]
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        words = arguments(container, documents)
        if name.endswith("worker"):
            assert words[words.index("--metrics-port") + 1] == str(ports["metrics"])
        else:
            assert not ports


def test_budgets_are_of_pods_that_are_there(documents):
    labels = [
        document["spec"]["template"]["metadata"]["labels"].items()
        for document in of_kind(documents, "Deployment").values()
    ]
    for budget in of_kind(documents, "PodDisruptionBudget").values():
        wanted = budget["spec"]["selector"]["matchLabels"].items()
        assert sum(wanted <= there for there in labels) == 1


@pytest.mark.parametrize("name", ["gke", "eks"])
def test_keda_looks_at_the_queues_that_the_workers_serve(name):
    documents = render(f"overlays/{name}")
    deployments = of_kind(documents, "Deployment")
    auth = of_kind(documents, "TriggerAuthentication")
    scaled = of_kind(documents, "ScaledObject")
    assert set(scaled) == set(deployments)
    for target, found in scaled.items():
        spec = found["spec"]
        assert spec["scaleTargetRef"]["name"] == target and spec["minReplicaCount"] == 0
        assert "replicas" not in deployments[target]["spec"], "KEDA sets it"
        (trigger,) = spec["triggers"]
        container = pods(documents)[target]["containers"][0]
        assert arguments(container, documents)[1] == f"sqs://{trigger['metadata']['queueURL']}"
        region = environment(container, documents)["AWS_DEFAULT_REGION"]
        assert trigger["metadata"]["awsRegion"] == region
        assert trigger["authenticationRef"]["name"] in auth
        # a worker for each message, leased ones included: none is stopped for want of messages while it has one
        assert trigger["metadata"]["queueLength"] == "1"
        assert trigger["metadata"]["scaleOnInFlight"] == "true"


def test_the_schema_of_keda_refuses_what_keda_does_not_know():
    scaled, *_ = of_kind(render("overlays/gke"), "ScaledObject").values()
    scaled["spec"]["maxReplicas"] = 3
    with pytest.raises(ValidationError):
        KEDA.validate(scaled)


@pytest.mark.parametrize(
    ("name", "annotation"),
    [("gke", "iam.gke.io/gcp-service-account"), ("eks", "eks.amazonaws.com/role-arn")],
)
def test_pods_are_known_by_their_service_account_and_images_by_digest(name, annotation):
    documents = render(f"overlays/{name}")
    (account,) = of_kind(documents, "ServiceAccount").values()
    assert account["metadata"]["annotations"][annotation]
    assert all("@sha256:" in pod["containers"][0]["image"] for pod in pods(documents).values())


def test_on_google_aws_knows_the_pods_by_a_token():
    documents = render("overlays/gke")
    for pod in pods(documents).values():
        (container,) = pod["containers"]
        file = environment(container, documents)["AWS_WEB_IDENTITY_TOKEN_FILE"]
        (mount,) = (m for m in container["volumeMounts"] if file.startswith(m["mountPath"] + "/"))
        (volume,) = (v for v in pod["volumes"] if v["name"] == mount["name"])
        (source,) = volume["projected"]["sources"]
        assert f"{mount['mountPath']}/{source['serviceAccountToken']['path']}" == file
