"""deploy/ as Kustomize renders it, held against schemas: Kubernetes, KEDA, the Prometheus Operator. Never applied."""

import kubernetes_validate
import pydantic
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from cloudcoil.models.prometheus_operator import v1 as operator
from deployment_tools import ROOT, run

KUBERNETES = ROOT / "deploy" / "kubernetes"
MONITORING = ROOT / "deploy" / "monitoring"
VERSIONS = ("1.31", "1.34", "1.37")
WORKLOADS = {"embed-worker", "aggregator", "beat", "query-worker", "http"}


@pytest.fixture(scope="module")
def rendered():
    documents = list(yaml.safe_load_all(run("kustomize", "build", KUBERNETES)))
    assert len(documents) == sum(
        len(list(yaml.safe_load_all((KUBERNETES / name).read_text())))
        for name in yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    )
    return documents


def _of_kind(documents, kind):
    return {one["metadata"]["name"]: one for one in documents if one["kind"] == kind}


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_applied_fits_the_schemas_of_kubernetes(rendered, version):
    for document in rendered:
        if not document["apiVersion"].startswith("keda.sh/"):
            kubernetes_validate.validate(document, version, strict=True)


def test_the_autoscaling_of_embed_workers_fits_the_schema_of_keda(rendered):
    [scaled] = _of_kind(rendered, "ScaledObject").values()
    read = keda.ScaledObject.model_validate(scaled, extra="forbid")
    assert read.spec.scale_target_ref.name in _of_kind(rendered, "Deployment")
    assert {"serverAddress", "query", "threshold"} <= set(read.spec.triggers[0].metadata)
    with pytest.raises(pydantic.ValidationError, match="minReplicas"):
        keda.ScaledObject.model_validate({**scaled, "spec": {**scaled["spec"], "minReplicas": 0}}, extra="forbid")


def test_what_the_prometheus_operator_gets_fits_its_schemas():
    documents = {one["kind"]: one for one in yaml.safe_load_all(run("kustomize", "build", MONITORING))}
    assert set(documents) == {"ConfigMap", "PodMonitor", "PrometheusRule"}
    kubernetes_validate.validate(documents["ConfigMap"], VERSIONS[-1], strict=True)
    monitor = operator.PodMonitor.model_validate(documents["PodMonitor"], extra="forbid")
    assert monitor.spec.pod_metrics_endpoints[0].port == "metrics"
    rules = operator.PrometheusRule.model_validate(documents["PrometheusRule"], extra="forbid")
    assert rules.spec.groups[0].rules[0].alert == "NoAggregator"
    for kind in (operator.PodMonitor, operator.PrometheusRule):
        document = documents[kind.__name__]
        with pytest.raises(pydantic.ValidationError, match="scrapeInterval"):
            kind.model_validate({**document, "spec": {**document["spec"], "scrapeInterval": "1s"}}, extra="forbid")


def test_everything_is_in_the_namespace_and_says_that_it_is_ours(rendered):
    for document in rendered:
        assert document["metadata"]["namespace"] == "visual-search"
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "visual-search"


def test_the_network_policy_reaches_every_pod(rendered):
    policy = _of_kind(rendered, "NetworkPolicy")["visual-search"]
    for name, deployment in _of_kind(rendered, "Deployment").items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items(), name


def test_all_roles_are_deployed_with_the_image_that_the_kustomization_names(rendered):
    deployments = _of_kind(rendered, "Deployment")
    assert set(deployments) == WORKLOADS
    for deployment in deployments.values():
        pod = deployment["spec"]["template"]["spec"]
        assert {one["image"] for one in (*pod["containers"], *pod["initContainers"])} == {"visual-search:local"}


def test_what_is_scaled_by_itself_has_no_number_that_an_apply_would_set_back(rendered):
    scalers = (*_of_kind(rendered, "HorizontalPodAutoscaler").values(), *_of_kind(rendered, "ScaledObject").values())
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in scalers}
    assert scaled == {"embed-worker", "query-worker", "http"}
    for name, deployment in _of_kind(rendered, "Deployment").items():
        assert ("replicas" in deployment["spec"]) == (name not in scaled), name


def test_settings_and_secret_are_those_that_the_pods_name(rendered):
    there = {("configMapRef", "visual-search"), ("secretRef", "visual-search")}
    assert set(_of_kind(rendered, "ConfigMap")) == {"visual-search"}
    [example] = yaml.safe_load_all((KUBERNETES / "secret.example.yaml").read_text())
    assert (example["kind"], example["metadata"]["name"]) == ("Secret", "visual-search")
    for deployment in _of_kind(rendered, "Deployment").values():
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        named = {(how, one["name"]) for source in container["envFrom"] for how, one in source.items()}
        assert named == there
