"""The files of docker/: they are well-formed, and say the same as the service and each other."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.ray_serve.scale import Scale
from service.settings import Settings
from tests.conftest import ROOT

DOCKER = ROOT / "docker"
MANIFESTS = sorted(p for p in (DOCKER / "k8s").glob("*.yaml") if p.name != "kustomization.yaml")
#: Asked for by spikingjelly, and never loaded by the service.
LEFT_OUT = {
    "h5py", "matplotlib", "scienceplots", "tensorboard", "torchaudio", "torchvision",
}  # fmt: skip


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def run(tool: str, *arguments: object) -> None:
    """Run a linter of this environment; fail with its output where it reports something."""
    command = [Path(sys.executable).with_name(tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("folder", ["", "ray"])
def test_hadolint_finds_nothing_in_the_dockerfile(folder: str) -> None:
    run("hadolint", DOCKER / folder / "Dockerfile")


@pytest.mark.slow
def test_compose_has_the_shape_that_compose_reads() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


VERSIONS = ["1.30", kubernetes_validate.latest_version()]
#: What KServe's predictors have beside a pod's members (ComponentExtensionSpec of v1beta1).
KSERVE = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifests_have_the_shape_that_kubernetes_reads(path: Path, version: str) -> None:
    kubernetes_validate.validate(read(path), version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_predictor_of_kserve_is_a_pod_that_kubernetes_reads(version: str) -> None:
    """KServe's own schema is in none of the packages here; the rest is a pod's."""
    whole = read(DOCKER / "kserve" / "inferenceservice.yaml")
    assert (whole["apiVersion"], whole["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    assert set(whole["spec"]) == {"predictor"}
    predictor = whole["spec"]["predictor"]
    numbers = [predictor[name] for name in KSERVE - {"scaleMetric"}]
    assert all(type(number) is int for number in numbers)
    pod = {name: value for name, value in predictor.items() if name not in KSERVE}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": whole["metadata"], "spec": pod},
        version,
        strict=True,
    )


def test_kserve_runs_the_pod_of_the_deployment() -> None:
    predictor = read(DOCKER / "kserve" / "inferenceservice.yaml")["spec"]["predictor"]
    pod = manifest("deployment")["template"]["spec"]
    (container,), (other,) = predictor["containers"], pod["containers"]
    assert container["name"] == "kserve-container"
    for name in ("image", "env", "resources", "securityContext", "volumeMounts"):
        assert container[name] == other[name], name
    for name in ("securityContext", "volumes", "terminationGracePeriodSeconds"):
        assert predictor[name] == pod[name], name
    (port,) = container["ports"]
    assert (port["name"], port["containerPort"]) == ("http1", Settings().port)
    for probe in ("livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == Settings().port
    assert predictor["timeout"] > Settings().request_deadline_s
    assert predictor["scaleTarget"] < Settings().queue_length


def ray_service() -> tuple[Any, Any]:
    """The spec of the RayService, and its configuration of Ray Serve."""
    whole = read(DOCKER / "ray" / "rayservice.yaml")
    assert (whole["apiVersion"], whole["kind"]) == ("ray.io/v1", "RayService")
    return whole["spec"], yaml.safe_load(whole["spec"]["serveConfigV2"])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_nodes_of_the_rayservice_are_pods_that_kubernetes_reads(version: str) -> None:
    """KubeRay's own schema is in none of the packages here; the rest is of pods."""
    spec, _ = ray_service()
    cluster = spec["rayClusterConfig"]
    (worker,) = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], worker):
        assert all(type(value) is str for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}}
        kubernetes_validate.validate(pod | group["template"], version, strict=True)


def test_the_rayservice_deploys_the_application_as_the_deployment_runs_it() -> None:
    spec, config = ray_service()
    cluster = spec["rayClusterConfig"]
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    scale = Scale(**application["args"])
    (group,) = cluster["workerGroupSpecs"]
    assert (scale.min_replicas, scale.max_replicas) == (group["minReplicas"], group["maxReplicas"])

    (container,) = group["template"]["spec"]["containers"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (other,) = manifest("deployment")["template"]["spec"]["containers"]
    assert container["env"] == head["env"]
    assert [each for each in other["env"] if each not in container["env"]] == []
    assert container["securityContext"] == other["securityContext"]
    assert [each for each in other["volumeMounts"] if each not in container["volumeMounts"]] == []
    limits = container["resources"]["limits"]
    assert scale.cpus <= int(limits["cpu"])
    assert scale.gpus == limits["nvidia.com/gpu"]
    port = config["http_options"]["port"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": port}
    models = {each["name"]: each["value"] for each in head["env"] if "value" in each}
    assert models["SCMRL_MODELS"] in {each["mountPath"] for each in head["volumeMounts"]}
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    assert f"ray=={cluster['rayVersion']}" in lock
    grace_s = group["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s > Settings().shutdown_grace_s


def test_kustomization_names_every_manifest() -> None:
    named = read(DOCKER / "k8s" / "kustomization.yaml")["resources"]
    assert sorted(named) == [path.name for path in MANIFESTS]


# --- packages.txt --------------------------------------------------------------------------


def packages() -> list[str]:
    """The packages in the image."""
    lines = (DOCKER / "packages.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def asked_for() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["grpc"], *extras["otel"], *extras["redis"]]
    return [Requirement(line) for line in lines]


def not_as_locked() -> list[str]:
    """The packages of the image that are installed here in another version than the lock's."""
    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if not line.startswith("#") and (
            (pin := Requirement(line)).marker is None or pin.marker.evaluate()
        ):
            pins[canonicalize_name(pin.name)] = pin.specifier
    installed = {canonicalize_name(d.name): d.version for d in distributions()}
    return [n for n in packages() if n not in installed or installed[n] not in pins[n]]


def test_the_image_holds_what_pyproject_asks_for_what_that_needs_and_no_other() -> None:
    """What a package needs depends on its version: the image has those of the lock."""
    if other := not_as_locked():
        pytest.skip(f"needs the versions of requirements.lock, which {other[0]} has not")
    needed = {canonicalize_name(r.name) for r in asked_for()}
    for name in packages():
        # torch's own are also those of CUDA, by the build; here it is torch's for CPUs.
        for requirement in map(Requirement, requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed.add(canonicalize_name(requirement.name))
    needed = {n for n in needed - LEFT_OUT if not n.startswith(("nvidia-", "cuda-", "triton"))}
    assert packages() == sorted(needed)


# --- compose.yaml and k8s/ -----------------------------------------------------------------


def seconds(duration: str) -> float:
    number = re.fullmatch(r"(\d+)s", duration)
    assert number, duration
    return float(number[1])


def services() -> dict[str, Any]:
    definitions = read(DOCKER / "compose.yaml")["services"]
    assert isinstance(definitions, dict)
    return definitions


def manifest(name: str) -> Any:
    return read(DOCKER / "k8s" / f"{name}.yaml")["spec"]


@pytest.mark.parametrize("name", ["scmrl", "scmrl-cpu"])
def test_compose_lets_accepted_requests_finish_and_lets_nothing_be_written(name: str) -> None:
    service = services()[name]
    assert seconds(service["stop_grace_period"]) > Settings().shutdown_grace_s
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert {"cpus", "memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()


def test_no_service_of_compose_can_be_reached_from_other_machines() -> None:
    for name, service in services().items():
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:"), name


def test_every_image_of_compose_that_is_not_built_is_pinned() -> None:
    for service in services().values():
        if "build" not in service:
            assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]), service["image"]


def test_what_compose_mounts_is_there_and_prometheus_has_its_key() -> None:
    for name, service in services().items():
        for mount in service.get("volumes", []):
            if mount.startswith("./"):
                assert (DOCKER / mount.split(":")[0]).exists(), (name, mount)
    (job,) = read(DOCKER / "prometheus.yml")["scrape_configs"]
    file = job["authorization"]["credentials_file"]
    assert file.removeprefix("/run/secrets/") in services()["prometheus"]["secrets"]


def test_a_pod_lets_accepted_requests_finish() -> None:
    pod = manifest("deployment")["template"]["spec"]
    waits = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > waits + Settings().shutdown_grace_s


def test_the_manifests_find_each_other() -> None:
    deployment, service = manifest("deployment"), manifest("service")
    labels = deployment["template"]["metadata"]["labels"]
    budget, scaler = manifest("poddisruptionbudget"), manifest("horizontalpodautoscaler")
    for selector in (deployment["selector"], budget["selector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    target = read(DOCKER / "k8s" / "deployment.yaml")
    assert scaler["scaleTargetRef"] == {
        "apiVersion": target["apiVersion"], "kind": target["kind"],
        "name": target["metadata"]["name"],
    }  # fmt: skip
    (container,) = deployment["template"]["spec"]["containers"]
    (port,) = container["ports"]
    assert port["containerPort"] == Settings().port
    assert service["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == port["name"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in deployment["template"]["spec"]["volumes"]}


def test_a_pod_is_the_images_user_on_a_read_only_root() -> None:
    pod = manifest("deployment")["template"]["spec"]
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    context = pod["securityContext"]
    assert (str(context["runAsUser"]), str(context["runAsGroup"])) == user
    assert context["runAsNonRoot"]
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
