"""deploy/kubernetes: manifests by Kubernetes' own schemas, and by the program that they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import psycopg
import pytest
import yaml

from embedmill.api.health import router
from embedmill.api.server import GRACE_SECONDS
from embedmill.fleet.seat import SeatOptions
from tests.deploy.shipped import KUBERNETES, manifests, parse_command, unknown_variables

BASE, KEDA = KUBERNETES / "base", KUBERNETES / "keda"
KUSTOMIZATION = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
OWN_KINDS = [
    (name, manifest)
    for name, manifest in manifests(BASE)
    if not manifest["apiVersion"].startswith("kustomize")
]
OLDEST_SUPPORTED = "1.30"


def name_of(value: object) -> str | None:
    return f"{value['kind']}-{value['metadata']['name']}" if isinstance(value, dict) else None


def of_kind(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for _, each in OWN_KINDS if each["kind"] == kind}


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    return dict(workload["spec"]["template"]["spec"])


WORKLOADS = {**of_kind("Deployment"), **of_kind("Job")}


@pytest.mark.parametrize("version", [OLDEST_SUPPORTED, kubernetes_validate.latest_version()])
@pytest.mark.parametrize(("file", "manifest"), OWN_KINDS, ids=name_of)
def test_a_manifest_is_as_its_schema_says(file: str, manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_validation_would_tell() -> None:
    (deployment,) = [each for _, each in OWN_KINDS if each["metadata"]["name"] == "embedmill-worker"][:1]
    wrong = yaml.safe_load(yaml.safe_dump(deployment))
    wrong["spec"]["template"]["spec"]["terminationGraceperiodSeconds"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST_SUPPORTED, strict=True)


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_container_runs_a_command_that_there_is(name: str) -> None:
    for container in pod(WORKLOADS[name])["containers"]:
        parse_command(container["args"])
        assert "command" not in container, "the image's own entry point"


def test_every_variable_is_a_setting() -> None:
    for path in (*BASE.iterdir(), *KEDA.iterdir()):
        assert unknown_variables(path.read_text(encoding="utf-8")) == set(), path.name


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_pod_may_do_little(name: str) -> None:
    spec = pod(WORKLOADS[name])
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        limits = container["securityContext"]
        assert limits["readOnlyRootFilesystem"] is True
        assert limits["allowPrivilegeEscalation"] is False
        assert limits["capabilities"] == {"drop": ["ALL"]}
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
        assert {"/tmp", "/var/lib/embedmill"} == writable  # noqa: S108


def test_probes_ask_where_the_service_answers() -> None:
    (container,) = pod(WORKLOADS["embedmill-service"])["containers"]
    paths = {route.path for route in router.routes}  # type: ignore[attr-defined]
    probes = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")
    }
    assert set(probes.values()) <= paths
    assert probes["readiness"] == "/readyz"
    assert probes["liveness"] == "/healthz", "to start it again helps nobody while the database is away"
    port = container["args"][container["args"].index("--port") + 1]
    assert container["ports"][0]["containerPort"] == int(port)
    assert of_kind("NetworkPolicy")["embedmill-service"]["spec"]["ingress"][0]["ports"][0]["port"] == int(
        port
    )


def test_the_end_of_a_pod_leaves_time_for_the_drain() -> None:
    service = pod(WORKLOADS["embedmill-service"])
    pause = int(service["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert service["terminationGracePeriodSeconds"] > pause + GRACE_SECONDS
    worker = pod(WORKLOADS["embedmill-worker"])
    assert worker["terminationGracePeriodSeconds"] > SeatOptions().stop_seconds


def test_old_pods_serve_until_new_ones_are_ready() -> None:
    for deployment in of_kind("Deployment").values():
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert "replicas" not in WORKLOADS["embedmill-worker"]["spec"], "an apply would undo the scaling"


def references(value: Any) -> Iterator[tuple[str, str]]:
    """(kind, name) of every ConfigMap, Secret and ServiceAccount that is named anywhere within."""
    if isinstance(value, dict):
        for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if key in value:
                yield kind, value[key]["name"]
        if "secretName" in value:
            yield "Secret", value["secretName"]
        if "serviceAccountName" in value:
            yield "ServiceAccount", value["serviceAccountName"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


def test_what_a_manifest_names_is_there() -> None:
    there = {(each["kind"], each["metadata"]["name"]) for _, each in OWN_KINDS}
    for workload in WORKLOADS.values():
        assert set(references(workload)) <= there
    labelled = {
        label
        for each in WORKLOADS.values()
        for label in each["spec"]["template"]["metadata"]["labels"].items()
    }
    for kind in ("Service", "PodDisruptionBudget"):
        for each in of_kind(kind).values():
            selector = each["spec"]["selector"]
            assert set(selector.get("matchLabels", selector).items()) <= labelled
    resources = {path.name for path in BASE.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(KUSTOMIZATION["resources"]) == resources
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {
        container["image"] for each in WORKLOADS.values() for container in pod(each)["containers"]
    }


def test_the_scaler_s_parts_name_each_other() -> None:
    named = {each["kind"]: each for name, each in manifests(KEDA) if name == "scaling.yaml"}
    scaled, authentication = named["ScaledObject"], named["TriggerAuthentication"]
    assert {each["apiVersion"] for each in named.values()} == {"keda.sh/v1alpha1"}
    target = scaled["spec"]["scaleTargetRef"]["name"]
    assert target in of_kind("Deployment")
    assert 1 <= scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"], "one reads and sweeps"
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "postgresql"
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    float(trigger["metadata"]["targetQueryValue"])
    (wanted,) = authentication["spec"]["secretTargetRef"]
    (secret,) = [each for name, each in manifests(KEDA) if name == "secret.example.yaml"]
    assert wanted["name"] == secret["metadata"]["name"]
    assert wanted["parameter"] == "connection"
    assert psycopg.conninfo.conninfo_to_dict(secret["stringData"][wanted["key"]])
    behavior = scaled["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "made-by-keda"},
        "spec": {
            "maxReplicas": 2,
            "behavior": behavior,
            "scaleTargetRef": {"kind": "Deployment", "name": target},
        },
    }
    kubernetes_validate.validate(autoscaler, OLDEST_SUPPORTED, strict=True)
