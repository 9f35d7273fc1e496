"""The files for Kubernetes, Prometheus and Grafana fit the program: schemas, commands, settings, metrics. Not run."""

import json
import re
from importlib import import_module
from pathlib import Path

import kubernetes_validate
import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY

from storage.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
MONITORING = DEPLOY / "monitoring"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
KUBERNETES_VERSION = "1.31"
FOREIGN_KINDS = ("ScaledObject", "Kustomization")  # their schemas are not Kubernetes' own


def _documents():
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            yield f"{path.name}: {document['kind']} {document.get('metadata', {}).get('name', '')}", document


DOCUMENTS = dict(_documents())
DEPLOYMENTS = {one["metadata"]["name"]: one for one in DOCUMENTS.values() if one["kind"] == "Deployment"}
EXPRESSIONS = [
    *(
        (f"alert {rule['alert']}", rule["expr"])
        for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ),
    *(
        (f"panel {panel['title']}", target["expr"])
        for panel in json.loads((MONITORING / "grafana/dashboards/visual-search.json").read_text())["panels"]
        for target in panel["targets"]
    ),
]


@pytest.mark.parametrize("name", [name for name, one in DOCUMENTS.items() if one["kind"] not in FOREIGN_KINDS])
def test_every_manifest_fits_the_schema_of_kubernetes(name):
    kubernetes_validate.validate(DOCUMENTS[name], KUBERNETES_VERSION, strict=True)


def test_the_kustomization_names_every_manifest_except_the_example():
    resources = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
    assert set(resources) == there


def test_kubernetes_runs_the_commands_that_compose_runs():
    for name, deployment in DEPLOYMENTS.items():
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        assert container["command"] == COMPOSE["services"][name]["command"]
        [before] = deployment["spec"]["template"]["spec"]["initContainers"]
        assert before["command"] == COMPOSE["services"]["migrate"]["command"]
    assert set(DEPLOYMENTS) == {"embed-worker", "aggregator", "beat", "query-worker", "http"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_every_container_is_confined_and_knows_its_size(name):
    pod = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert container["resources"]["requests"]["memory"]
        assert container["resources"]["limits"]["memory"]
    assert "livenessProbe" in pod["containers"][0]


def test_selectors_and_targets_lead_to_something():
    for name, one in DEPLOYMENTS.items():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert one["spec"]["selector"]["matchLabels"].items() <= labels.items(), name
    for name, one in DOCUMENTS.items():
        target = one.get("spec", {}).get("scaleTargetRef")
        if target:
            assert target["name"] in DEPLOYMENTS, name
        chosen = one.get("spec", {}).get("selector", {})
        if one["kind"] in ("PodDisruptionBudget", "Service"):
            labels = chosen.get("matchLabels", chosen)
            assert labels["app.kubernetes.io/name"] in DEPLOYMENTS, name


@pytest.mark.parametrize(
    "name", ["settings.yaml: ConfigMap visual-search", "secret.example.yaml: Secret visual-search"]
)
def test_kubernetes_sets_only_settings_that_there_are(name):
    document = DOCUMENTS[name]
    given = document.get("data") or document["stringData"]
    ours = {key.removeprefix("VISUAL_SEARCH_").lower() for key in given if key.startswith("VISUAL_SEARCH_")}
    assert ours <= set(Settings.model_fields)
    plain = {key: value for key, value in given.items() if "CHANGE-ME" not in value}
    Settings(**{key.removeprefix("VISUAL_SEARCH_").lower(): value for key, value in plain.items() if key in ours})


def test_compose_sets_only_settings_that_there_are():
    for name, service in COMPOSE["services"].items():
        environment = service.get("environment", {})
        ours = {key.removeprefix("VISUAL_SEARCH_").lower() for key in environment if key.startswith("VISUAL_SEARCH_")}
        assert ours <= set(Settings.model_fields), name


def _metrics():
    """Every metric of ours by the names that Prometheus sees, with its labels."""
    for module in ("workers.signs.metrics", "query_service.metrics", "query_service.http.http_metrics"):
        import_module(module)
    found = {}
    for collector in set(REGISTRY._collector_to_names):
        for name in REGISTRY._collector_to_names[collector]:
            found[name] = set(getattr(collector, "_labelnames", ()))
    return found


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_alerts_and_panels_ask_for_metrics_and_labels_that_there_are(where, expression):
    promql_parser.parse(expression)
    metrics = _metrics()
    for name, labels in re.findall(r"(visual_search_\w+)(?:\{([^}]*)\})?", expression):
        assert name in metrics, f"{where}: {name}"
        asked = set(re.findall(r"(\w+)\s*=~?", labels))
        assert asked <= metrics[name], f"{where}: {name} has the labels {metrics[name]}"


def test_every_alert_says_what_to_do():
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("warning", "critical")
            assert {"summary", "description"} <= set(rule["annotations"])


def test_prometheus_looks_where_compose_listens():
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"]
    places = {(name, one["port"]) for job in scraped for one in job["dns_sd_configs"] for name in one["names"]}
    for name, port in places:
        assert COMPOSE["services"][name]["environment"]["VISUAL_SEARCH_METRICS_PORT"] == str(port)
    assert {name for name, _ in places} == set(DEPLOYMENTS)
    for service in ("prometheus", "grafana"):
        for volume in COMPOSE["services"][service]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists()
