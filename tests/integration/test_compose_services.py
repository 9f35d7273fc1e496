"""docker-compose.yml without containers: each service of ours, started by exactly its command and environment.

Only places differ (see `composed`). What all services wrote stands in build/compose-services-*.log afterwards.
"""

import json
import signal

import boto3.session
import httpx
import pytest
from composed import COMPOSE, GIVEN, KEY, OURS, SERVICES, Deployment, interpolated
from pictures import jpeg, write_photos
from servers import free_port, wait_for

pytestmark = pytest.mark.slow  # real processes that wait for each other: `make test-slow`

STOP_SECONDS = 120
PATIENT = {"VISUAL_SEARCH_SEARCH_SECONDS": "120"}  # a busy machine takes longer than people wait


def _search_over_http(address, key, image_id):
    body = {"query": [{"image_id": image_id}], "k": 3, "timeout": 120}
    answer = httpx.post(f"{address}/v1/search", json=body, headers={"Authorization": f"Bearer {key}"}, timeout=180)
    return answer.status_code, [one["image_id"] for one in answer.json().get("results", [])]


def _stopped(roles):
    """The exit codes after SIGTERM, by service."""
    for role in roles:
        role.send(signal.SIGTERM)
    return {role.log.stem: role.process.wait(timeout=STOP_SECONDS) for role in roles}


def test_the_services_of_the_compose_file_index_a_folder_answer_searches_and_stop_cleanly(deploy):
    deployment = deploy()
    first = write_photos(deployment.folder / "photos", 20)[0]
    for _again in range(2):
        assert deployment.run("migrate").process.returncode == 0
    roles = [
        deployment.start("embed-worker", instance="-1"),
        deployment.start("embed-worker", instance="-2"),
        deployment.start("aggregator"),
        deployment.start("beat"),
        deployment.start("query-worker", instance="-1"),
        deployment.start("query-worker", instance="-2"),
        deployment.start("http"),
    ]
    for role in roles:
        wait_for(lambda role=role: role.says("ready"), what=f"{role.log.name} to be ready")

    submitted = deployment.run("cli", "submit", "/photos", "--wait")
    assert submitted.process.returncode == 0, submitted.text()
    audited = deployment.run("cli", "audit", "/photos")
    assert audited.process.returncode == 0, audited.text()

    asked = deployment.run("cli", "search", "--service", "--id", first, "-k", "3", "--json", **PATIENT)
    assert asked.process.returncode == 0, asked.text()
    by_rpc = [one["image_id"] for one in json.loads(asked.text())["results"]]
    for name in ("embed-worker", "aggregator", "beat", "query-worker", "http"):
        wait_for(lambda name=name: deployment.healthy(name), what=f"the health check of {name}")
    assert _search_over_http(deployment.address, KEY, first) == (200, by_rpc)
    assert len(by_rpc) == 3
    assert _search_over_http(deployment.address, "another", first) == (401, [])

    assert _stopped(roles) == {role.log.stem: 0 for role in roles}
    assert [path.name for path in (deployment.folder / "home").iterdir()] == [], "the root file system is read-only"
    for role in deployment.started.values():
        assert not any(
            secret in role.text() for secret in (GIVEN["POSTGRES_PASSWORD"], GIVEN["VALKEY_PASSWORD"], KEY)
        ), f"{role.log.name} shows a secret"


def test_pictures_in_s3_are_indexed_by_the_services(deploy):
    """The profile s3: moto's server by the file's command, and what .env.example says to put into .env for it."""
    deployment = deploy(
        AWS_ACCESS_KEY_ID="testing",
        AWS_SECRET_ACCESS_KEY="testing",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_ENDPOINT_URL="http://s3:5000",
        UPLOADS_ADDRESS="s3://uploads",
    )
    assert deployment.run("migrate").process.returncode == 0
    s3 = deployment.start("s3")
    wait_for(lambda: deployment.healthy("s3"), what="the stand-in for S3")
    address = deployment.placed("http://s3:5000")
    client = boto3.session.Session().client("s3", endpoint_url=address, region_name="us-east-1")
    for bucket in ("pictures", "uploads"):
        client.create_bucket(Bucket=bucket)
    for number in range(5):
        client.put_object(Bucket="pictures", Key=f"{number}.jpg", Body=jpeg(number))
    roles = [deployment.start("embed-worker"), deployment.start("aggregator"), deployment.start("http"), s3]
    wait_for(lambda: deployment.healthy("http"), what="the health check of http")

    for arguments in (("submit", "s3://pictures", "--wait"), ("audit", "s3://pictures")):
        done = deployment.run("cli", *arguments)
        assert done.process.returncode == 0, done.text()
    _upload(deployment, "mine", jpeg(99))
    audited = deployment.run("cli", "audit", "s3://uploads/default")
    assert audited.process.returncode == 0, audited.text()
    assert client.get_object(Bucket="uploads", Key="default/mine")["Body"].read() == jpeg(99)
    client.close()
    assert _stopped(roles[:3]) == {"embed-worker": 0, "aggregator": 0, "http": 0}
    assert _stopped(roles[3:]) == {"s3": 0}


def _upload(deployment, image_id, picture):
    """Send a picture over HTTP, and wait until its job is done."""
    headers = {"Authorization": f"Bearer {KEY}"}
    sent = {"files": {"image": picture}, "data": {"image_id": image_id}}
    reply = httpx.post(f"{deployment.address}/v1/images", headers=headers, timeout=180, **sent)
    assert reply.status_code == 202, reply.text
    job = f"{deployment.address}/v1/jobs/{reply.json()['id']}"

    def finished():
        return httpx.get(job, headers=headers, timeout=180).json()["state"] == "finished"

    wait_for(finished, what="the upload's job to finish")


def test_valkey_has_what_the_file_says_and_shows_its_password_to_nobody(compose_valkey):
    with compose_valkey.client() as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}
        found = client.config_get(*wanted, "maxmemory")
    assert found == {**wanted, "maxmemory": str(512 * 1024 * 1024)}
    assert GIVEN["VALKEY_PASSWORD"] not in " ".join(map(str, compose_valkey.process.args))


def test_a_database_that_is_away_stops_the_deployment_at_its_first_step(tmp_path):
    migrate = Deployment(tmp_path, {"@postgres:5432": f"@127.0.0.1:{free_port()}"}).run("migrate")
    assert migrate.process.returncode == 1
    assert "catalog_unavailable" in migrate.text()
    assert GIVEN["POSTGRES_PASSWORD"] not in migrate.text()


def test_every_service_of_ours_is_tested_above():
    assert {"migrate", "embed-worker", "aggregator", "beat", "query-worker", "http", "cli", "s3"} == OURS


def test_passwords_have_no_default():
    with pytest.raises(AssertionError, match="POSTGRES_PASSWORD must be given"):
        interpolated(SERVICES["beat"]["environment"]["VISUAL_SEARCH_DATABASE_URL"], {})
    with pytest.raises(AssertionError, match="VALKEY_PASSWORD must be given"):
        interpolated(SERVICES["beat"]["environment"]["VISUAL_SEARCH_REDIS_URL"], {})
    with pytest.raises(AssertionError, match="API_KEYS must be given"):
        interpolated(SERVICES["http"]["environment"]["VISUAL_SEARCH_API_KEYS"], {})


def test_no_shell_stands_between_a_signal_and_our_processes():
    for name in OURS:
        assert isinstance(SERVICES[name]["command"], list), name
        assert SERVICES[name]["init"] is True, name


def test_what_a_service_waits_for_can_come_about():
    for service in SERVICES.values():
        for name, condition in service.get("depends_on", {}).items():
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[name]
            else:
                assert SERVICES[name]["restart"] == "no"
    volumes = [volume for one in SERVICES.values() for volume in one["volumes"]]
    used = {volume.split(":")[0] for volume in volumes if not volume.startswith(("$", "."))}
    assert used == set(COMPOSE["volumes"])
