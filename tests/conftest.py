"""Fixtures that several test folders share: an S3 server, the shared photos, and seeded pictures."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from buckets import Bucket
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from pictures import jpeg

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# Each before those that import it
pytest_plugins = ["command_tree", "servers", "databases", "composed", "user_shell", "web_server"]

REGION = "us-east-1"


def pytest_configure() -> None:
    """Ctrl-C also ends tests that run in the background, with their processes; property tests have their time."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # An example that takes 0.2 s, or one that is made for a second, is no failure: a machine may stand still meanwhile
    patient = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    hypothesis.register_profile("patient", hypothesis.default, **patient)
    hypothesis.load_profile("patient")


@pytest.fixture(scope="session", autouse=True)
def _no_real_aws() -> Iterator[None]:
    """No test can reach a real account: dummy credentials, and none of the user's files or profiles."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", REGION)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_real_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models that tests export to ONNX go to a folder of this run, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def s3_endpoint(_no_real_aws: None) -> Iterator[str]:
    """The address of a moto S3 server that answers over HTTP on a free port of this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def s3_client(s3_endpoint: str) -> Iterator[S3Client]:
    """A plain boto3 client of that server."""
    import boto3.session

    client = boto3.session.Session().client("s3", endpoint_url=s3_endpoint, region_name=REGION)
    yield client
    client.close()


@pytest.fixture
def s3_bucket(s3_client: S3Client, s3_endpoint: str) -> Bucket:
    """A bucket of its own for each test."""
    name = f"test-{uuid4().hex}"
    s3_client.create_bucket(Bucket=name)
    return Bucket(name, s3_endpoint, s3_client)


@pytest.fixture(scope="session")
def small_demo() -> Path:
    """The shared 440 photos and 210 near-duplicates, which stand beside the repository."""
    path = Path(__file__).parents[1].parent / "shared" / "data" / "small-demo"
    if not path.is_dir():
        pytest.skip("the small-demo photos are not beside the repository")
    return path


@pytest.fixture(scope="session")
def make_jpeg() -> Callable[..., bytes]:
    """`make_jpeg(seed, size)`: JPEG bytes of a small picture, another one for each seed."""
    return jpeg
