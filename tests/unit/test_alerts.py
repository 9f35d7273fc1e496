"""Each alert of deploy/monitoring fires on what it is for, and stays quiet beside it: by Prometheus's own promtool."""

import re

import pytest
import yaml
from deployment_tools import ROOT, run

ALERTS = ROOT / "deploy" / "monitoring" / "alerts.yml"
RULES = {rule["alert"]: rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]}
CASES = yaml.safe_load((ROOT / "tests" / "data" / "alert_cases.yml").read_text())
FLAT = {f"{alert} {number}": (alert, one) for alert, cases in CASES.items() for number, one in enumerate(cases, 1)}


def _annotations(rule, labels):
    def filled(text):
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels[match[1]], text)

    return {name: filled(text) for name, text in rule["annotations"].items()}


def _promtool(tmp_path, alert, case, code=0):
    """Ask promtool whether this alert, and with these labels, is what comes of these series."""
    rule, fired = RULES[alert], []
    if case["fires"] is not None:
        labels = {**case["fires"], **rule["labels"]}
        fired = [{"exp_labels": labels, "exp_annotations": _annotations(rule, case["fires"])}]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case["seen"].items()],
        "alert_rule_test": [{"eval_time": f"{case['after']}m", "alertname": alert, "exp_alerts": fired}],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [test]}))
    return run("promtool", "test", "rules", file, expected=code)


@pytest.mark.parametrize("name", FLAT)
def test_an_alert_fires_on_what_it_is_for_and_on_nothing_beside_it(tmp_path, name):
    assert "SUCCESS" in _promtool(tmp_path, *FLAT[name])


def test_promtool_would_say_that_an_alert_did_not_fire(tmp_path):
    quiet = {"after": 5, "fires": {}, "seen": {"visual_search_aggregator_leads": "1x10"}}
    said = _promtool(tmp_path, "NoAggregator", quiet, code=1)
    assert "FAILED" in said


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    assert set(CASES) == set(RULES)
    for alert, cases in CASES.items():
        assert {one["fires"] is None for one in cases} == {True, False}, alert


def test_promtool_reads_the_rules():
    assert f"SUCCESS: {len(RULES)} rules found" in run("promtool", "check", "rules", ALERTS)


def test_promtool_reads_the_configuration(tmp_path):
    """As in the containers, with the rules that are mounted there."""
    text = (ALERTS.parent / "prometheus.yml").read_text()
    assert "/etc/prometheus/alerts.yml" in text
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/alerts.yml", str(ALERTS)))
    assert "SUCCESS" in run("promtool", "check", "config", tmp_path / "prometheus.yml")
