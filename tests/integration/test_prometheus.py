"""A real Prometheus reads the roles of docker-compose.yml by deploy/monitoring: each panel of the dashboard answers."""

import json
import math
import signal
import subprocess

import httpx
import pytest
import yaml
from composed import KEY
from deployment_tools import ROOT, program
from pictures import write_photos
from servers import RoleProcess, free_port, wait_for

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana/dashboards/visual-search.json").read_text())
QUERIES = {(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel["targets"]}
SCRAPED = ("embed-worker", "aggregator", "beat", "query-worker", "http")


def _configuration(deployment):
    """prometheus.yml as it is; only places differ, and it looks every two seconds."""
    text = (MONITORING / "prometheus.yml").read_text()
    read = yaml.safe_load(text.replace("/etc/prometheus/alerts.yml", str(MONITORING / "alerts.yml")))
    read["global"]["scrape_interval"] = "2s"
    for job in read["scrape_configs"]:
        [dns] = job.pop("dns_sd_configs")
        job["static_configs"] = [
            {"targets": [f"127.0.0.1:{deployment.metrics[name]}"], "labels": {"__meta_dns_name": name}}
            for name in dns["names"]
        ]
    return yaml.safe_dump(read)


@pytest.fixture
def prometheus(tmp_path):
    """`prometheus(deployment)`: started, and the address of its API."""
    started = []

    def start(deployment):
        (tmp_path / "prometheus.yml").write_text(_configuration(deployment))
        address = f"127.0.0.1:{free_port()}"
        log = tmp_path / "prometheus.log"
        options = [f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}"]
        options.append(f"--storage.tsdb.path={tmp_path / 'prometheus'}")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program("prometheus"), *options], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        started.append(RoleProcess(process, log))
        wait_for(lambda: started[-1].says("Server is ready"), what="Prometheus to be ready")
        return f"http://{address}/api/v1"

    program("prometheus")  # without it: skipped, or failed in CI, before anything starts
    yield start
    for role in started:
        role.stop(signal.SIGTERM)
        print(f"--- {role.log.name}\n{role.text()}")


def _ask(api, path, **parameters):
    answer = httpx.get(f"{api}/{path}", params=parameters, timeout=180)
    assert answer.json()["status"] == "success", answer.text
    return answer.json()["data"]


def _numbers(api, expression):
    """The values of all series that the query gives now, those left out that are no number."""
    values = [float(one["value"][1]) for one in _ask(api, "query", query=expression)["result"]]
    return [value for value in values if not math.isnan(value)]


def test_all_roles_are_read_every_panel_answers_and_no_alert_is_wrong(deploy, prometheus):
    deployment = deploy()
    first = write_photos(deployment.folder / "photos", 20)[0]
    assert deployment.run("migrate").process.returncode == 0
    for name in SCRAPED:
        deployment.start(name, VISUAL_SEARCH_SNAPSHOT_SECONDS="1")  # by default five minutes
    for name in SCRAPED:
        wait_for(lambda name=name: deployment.started[name].says("ready"), what=f"{name} to be ready")
    api = prometheus(deployment)

    def healths():
        return sorted(one["health"] for one in _ask(api, "targets")["activeTargets"])

    wait_for(lambda: healths() == ["up"] * len(SCRAPED), what="all roles to be read")
    assert deployment.run("cli", "submit", "/photos", "--wait").process.returncode == 0
    waiting = set(QUERIES)

    def answered():
        """Search, so that there is something to be seen; then ask for what has not answered yet."""
        body = {"query": [{"image_id": first}], "k": 3, "timeout": 120}
        headers = {"Authorization": f"Bearer {KEY}"}
        assert httpx.post(f"{deployment.address}/v1/search", json=body, headers=headers, timeout=180).status_code == 200
        waiting.difference_update({one for one in waiting if _numbers(api, one[1])})
        return not waiting

    try:
        wait_for(answered, what="every panel to answer")
    finally:
        print("without an answer:", sorted(waiting))
    # a look that a busy machine lets end too late counts as none: then the next one
    wait_for(lambda: _numbers(api, 'sum(visual_search_images_total{outcome="indexed"})') == [20], what="all images")
    wait_for(lambda: _roles_that_are_up(api) == set(SCRAPED), what="every role by its name")
    count = len(_rules(api))
    wait_for(lambda: _evaluated(api, count), what="all alerts to be evaluated")
    assert {rule["name"] for rule in _rules(api) if rule["state"] == "firing"} == set()


def _roles_that_are_up(api):
    return {one["metric"]["role"] for one in _ask(api, "query", query="up == 1")["result"]}


def _rules(api):
    return [rule for group in _ask(api, "rules")["groups"] for rule in group["rules"]]


def _evaluated(api, count):
    """Whether Prometheus has looked at each rule; fails when it could not."""
    rules = _rules(api)
    assert len(rules) == count
    assert not [rule for rule in rules if rule["health"] == "err"], rules
    return all(rule["health"] == "ok" for rule in rules)
