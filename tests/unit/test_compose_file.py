"""docker-compose.yml fits the Compose Specification, and every container is confined, bounded and documented."""

import copy
import re

import pytest
import yaml
from deployment_tools import ROOT, compose_problems

TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
OURS = {name: one for name, one in SERVICES.items() if "build" in one}
CUDA = yaml.safe_load((ROOT / "docker-compose.cuda.yml").read_text())
EXAMPLE = (ROOT / ".env.example").read_text()


@pytest.mark.parametrize("document", [COMPOSE, CUDA], ids=["docker-compose.yml", "docker-compose.cuda.yml"])
def test_the_file_fits_the_schema_of_the_compose_specification(document):
    known = copy.deepcopy(document)
    for config in known.get("configs", {}).values():
        assert config.pop("content")  # Compose has it since 2.23.1 (November 2023); the schema on npm is older
    assert compose_problems(known) == []


def test_the_schema_sees_a_word_that_compose_does_not_know():
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"]["http"]["helthcheck"] = {}
    assert any("helthcheck" in problem for problem in compose_problems(wrong))


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_bounded_and_its_log_rotates(name):
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert re.fullmatch(r"\d+[mg]|\$\{\w+:-\d+[mg]\}", limits["memory"])
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_can_write_outside_of_volumes_unless_compose_has_to_copy_a_file_into_it(name):
    """Compose refuses `content` and `environment` of configs and secrets for a read-only root (its issue 12031)."""
    mounted = [COMPOSE["configs"][one["source"]] for one in SERVICES[name].get("configs", [])]
    mounted += [COMPOSE["secrets"][one] for one in SERVICES[name].get("secrets", [])]
    copied = [one for one in mounted if "file" not in one]
    assert SERVICES[name].get("read_only", False) is (not copied)


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"valkey", "postgres"}))  # these begin as root, and step down
def test_a_container_has_no_privileges(name):
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


def test_sql_and_the_queue_are_in_a_network_of_their_own_without_ways_in_and_out():
    assert COMPOSE["networks"]["back"] == {"internal": True}
    for name, service in SERVICES.items():
        expected = ["back"] if name in ("valkey", "postgres") else ["back", "front"]
        assert service["networks"] == (["front"] if name in ("s3", "prometheus", "grafana") else expected), name
        assert "ports" not in service or "front" in service["networks"], name


def test_what_is_published_is_published_on_this_machine_only():
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert re.match(r"(\$\{\w+:-)?127\.0\.0\.1:", port), name


def test_no_secret_stands_in_a_command_line():
    for name, service in SERVICES.items():
        assert not re.search("PASSWORD|KEY", str(service.get("command", ""))), name


def test_the_variant_for_gpus_changes_services_that_there_are():
    assert set(CUDA["services"]) <= set(OURS)
    [worker] = CUDA["services"].values()
    assert worker["build"]["target"] == "cuda"


def test_the_example_of_env_names_exactly_what_compose_takes_and_says_what_it_is():
    passed_on = {key for one in SERVICES.values() for key, value in one.get("environment", {}).items() if value is None}
    taken = set(re.findall(r"\$\{(\w+)", TEXT)) | passed_on
    named = re.findall(r"^#?(\w+)=", EXAMPLE, re.MULTILINE)
    assert sorted(named) == sorted(taken)
    for block in EXAMPLE.strip().split("\n\n"):
        lines = block.splitlines()
        for number, line in enumerate(lines):
            if re.match(r"#?\w+=", line):
                above = [one for one in lines[:number] if one.startswith("# ")]
                assert above, f"{line} has no comment above it"


def test_the_example_gives_each_default_as_it_is_and_leaves_empty_what_must_be_given():
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT):
        assert re.search(rf"^#{name}={re.escape(default)}$", EXAMPLE, re.MULTILINE), f"{name}={default}"
    needed = set(re.findall(r"\$\{(\w+):\?", TEXT))
    assert set(re.findall(r"^(\w+)=", EXAMPLE, re.MULTILINE)) == needed


def test_nobody_is_told_to_call_compose_before_the_passwords_are_there():
    """Compose fills in the whole file at each command: without .env it refuses `build` too."""
    commands = re.findall(r"^    (\S.+)$", (ROOT / "deploy" / "README.md").read_text(), re.MULTILINE)
    first = next(number for number, line in enumerate(commands) if line.startswith("docker compose"))
    assert any(line.startswith("cp .env.example .env") for line in commands[:first])
    assert ":?" in TEXT
