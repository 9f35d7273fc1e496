"""How deploy/kubernetes is run and watched: probes, memory, ways in and out, what the Prometheus Operator is told."""

import json
import re
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from deployment_tools import ROOT, run

KUBERNETES = ROOT / "deploy" / "kubernetes"
MONITORING = ROOT / "deploy" / "monitoring"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
ROLES = ("embed-worker", "aggregator", "beat", "query-worker", "http")
DEPLOYMENTS = {name: next(iter(yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text()))) for name in ROLES}
PODS = {name: one["spec"]["template"] for name, one in DEPLOYMENTS.items()}
CONTAINERS = {name: pod["spec"]["containers"][0] for name, pod in PODS.items()}
POLICIES = list(yaml.safe_load_all((KUBERNETES / "network-policy.yaml").read_text()))
SECRET = yaml.safe_load((KUBERNETES / "secret.example.yaml").read_text())["stringData"]
ROLES_OF_WORK = tuple(name for name in ROLES if name != "http")


@pytest.mark.parametrize("name", ROLES_OF_WORK)
def test_a_pod_is_judged_by_what_its_own_process_left_and_not_by_other_servers(name):
    probe = ["python", "-m", "workers.probe"]
    assert CONTAINERS[name]["livenessProbe"]["exec"]["command"] == probe
    assert COMPOSE[name]["healthcheck"]["test"] == ["CMD", *probe]


@pytest.mark.parametrize("name", ROLES_OF_WORK)
def test_a_rollout_waits_until_the_new_pod_has_loaded_what_it_works_with(name):
    """Without it a pod counts as ready when its container starts, and the last old query worker goes too early."""
    startup = CONTAINERS[name]["startupProbe"]
    assert startup["exec"]["command"] == ["python", "-m", "workers.probe", "--ready"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 1800, "a large index or model takes its time"


def test_who_loads_the_index_may_take_as_much_memory_as_the_query_worker():
    loads = {name for name in ROLES if "INDEX_MEMORY" in COMPOSE[name]["deploy"]["resources"]["limits"]["memory"]}
    assert loads == {"aggregator", "beat", "query-worker"}
    limits = {CONTAINERS[name]["resources"]["limits"]["memory"] for name in loads}
    assert limits == {"8Gi"}


@pytest.mark.parametrize("name", ["query-worker", "http"])
def test_what_there_are_several_of_stands_on_several_nodes(name):
    [spread] = PODS[name]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"].items() <= PODS[name]["metadata"]["labels"].items()


def _of(name, direction):
    """The rules of all policies that choose this role's pods."""
    labels = PODS[name]["metadata"]["labels"]
    chosen = [one["spec"] for one in POLICIES if one["spec"]["podSelector"]["matchLabels"].items() <= labels.items()]
    assert any(direction.title() in one["policyTypes"] for one in chosen), "without one, everything is open"
    return [rule for one in chosen for rule in one.get(direction, [])]


@pytest.mark.parametrize("name", ROLES)
def test_a_role_reaches_sql_redis_s3_and_dns_and_no_other_port(name):
    ports = {(port["protocol"], port["port"]) for rule in _of(name, "egress") for port in rule["ports"]}
    needed = {urlsplit(SECRET[f"VISUAL_SEARCH_{one}_URL"]).port for one in ("DATABASE", "REDIS")}
    assert {("TCP", port) for port in needed} | {("TCP", 443), ("UDP", 53), ("TCP", 53)} <= ports
    assert ports == {("UDP", 53), ("TCP", 53), ("TCP", 443), ("TCP", 5432), ("TCP", 6379), ("TCP", 6380)}


@pytest.mark.parametrize("name", ROLES)
def test_prometheus_alone_reads_metrics_and_whoever_routes_to_it_the_http_api(name):
    listening = {port["name"]: port["containerPort"] for port in CONTAINERS[name]["ports"]}
    open_to_all = {port["port"] for rule in _of(name, "ingress") if "from" not in rule for port in rule["ports"]}
    assert open_to_all == ({listening["http"]} if name == "http" else set())
    to_some = {
        (peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], port["port"])
        for rule in _of(name, "ingress")
        for peer in rule.get("from", [])
        for port in rule["ports"]
    }
    assert to_some == {("monitoring", listening["metrics"])}
    scaler = next(iter(yaml.safe_load_all((KUBERNETES / "autoscaling.yaml").read_text())))["spec"]["triggers"][0]
    assert urlsplit(scaler["metadata"]["serverAddress"]).hostname == "prometheus.monitoring"
    assert PODS[name]["metadata"]["annotations"]["prometheus.io/port"] == str(listening["metrics"])
    settings = yaml.safe_load((KUBERNETES / "settings.yaml").read_text())["data"]
    assert settings["VISUAL_SEARCH_METRICS_PORT"] == str(listening["metrics"])


def test_the_example_of_an_address_for_sql_says_which_authorities_count():
    """Else libpq looks into the home folder, which is empty there, and refuses every server."""
    options = parse_qs(urlsplit(SECRET["VISUAL_SEARCH_DATABASE_URL"]).query)
    assert options == {"sslmode": ["verify-full"], "sslrootcert": ["/etc/ssl/certs/ca-certificates.crt"]}


@pytest.fixture(scope="module")
def watched():
    return {one["kind"]: one for one in yaml.safe_load_all(run("kustomize", "build", MONITORING))}


def test_the_operator_is_told_of_every_pod_and_gives_it_the_label_that_the_alerts_ask_for(watched):
    monitor = watched["PodMonitor"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    for name in ROLES:
        assert monitor["spec"]["selector"]["matchLabels"].items() <= PODS[name]["metadata"]["labels"].items()
        assert endpoint["port"] in {port["name"] for port in CONTAINERS[name]["ports"]}
        assert PODS[name]["metadata"]["labels"]["app.kubernetes.io/name"] == name
    meta = "__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", "app.kubernetes.io/name")
    assert endpoint["relabelings"] == [{"sourceLabels": [meta], "targetLabel": "role"}]
    job = f"{monitor['metadata']['namespace']}/{monitor['metadata']['name']}"  # the operator's own name for it
    asked = set(re.findall(r'job=~"([^"]+)"', (MONITORING / "alerts.yml").read_text()))
    assert all(re.fullmatch(pattern, job) for pattern in asked)


def test_alerts_know_only_roles_that_there_are():
    asked = set(re.findall(r'role="([^"]+)"', (MONITORING / "alerts.yml").read_text()))
    assert {"query-worker", "http", "beat"} <= asked <= set(ROLES)


def test_the_operator_gets_the_alerts_and_grafana_the_dashboard(watched):
    alerts = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    assert watched["PrometheusRule"]["spec"] == alerts
    dashboard = watched["ConfigMap"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    [text] = dashboard["data"].values()
    assert json.loads(text) == json.loads((MONITORING / "grafana/dashboards/visual-search.json").read_text())
