"""What is done to a running system, one function a fault. Each leaves the servers running again."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from crash.crash_system import CrashSystem, wait_a_moment
from sqlalchemy import select

from storage.catalog import tables
from storage.catalog.catalog import Catalog
from storage.errors import CatalogUnavailable
from workers.aggregator import LEASE_NAME, LEASE_SECONDS
from workers.celery_app import make_app, send_batch
from workers.result_stream import STREAM

WORKER_FAILPOINTS = [
    ("workers.embed_batches:BatchEmbedder._result", "before"),
    ("workers.embed_batches:BatchEmbedder._result", "after"),
    ("workers.embed_batches:BatchEmbedder._hand_over", "after"),
    ("workers.result_stream:ResultStream.publish", "before"),
    ("workers.result_stream:ResultStream.publish", "after"),
    ("storage.catalog.queued.batches:Batches.lease", "after"),
]
AGGREGATOR_FAILPOINTS = [
    ("workers.aggregator:Aggregator._write", "before"),
    ("workers.aggregator:Aggregator._write", "after"),
    ("workers.result_stream:ResultStream.acknowledge", "before"),
    ("workers.result_stream:ResultStream.acknowledge", "after"),
    ("storage.snapshot_files:SnapshotFiles.write", "after"),
    ("storage.catalog.vectors.snapshots:Snapshots.record", "before"),
    ("workers.sweeper:Sweeper.sweep", "after"),
]
SUBMIT_FAILPOINTS = [
    ("storage.catalog.queued.jobs:Jobs.add_batches", "before"),
    ("storage.catalog.queued.jobs:Jobs.add_batches", "after"),
    ("workers.submitting.batch_sender:BatchSender.send", "before"),
    ("workers.submitting.batch_sender:BatchSender.send", "after"),
    ("storage.catalog.queued.jobs:Jobs.listing_done", "before"),
]


@dataclass
class Scene:
    """What a fault may act on."""

    system: CrashSystem
    catalog: Catalog
    random: random.Random
    full_disk: Path | None  # the small file system of the snapshots, None where none can be mounted
    deleted: set[str] = field(default_factory=set)  # ids that a user took out while the job ran

    @property
    def snapshots(self) -> Path:
        return Path(str(self.system.settings.snapshot_address))


def kill_worker(scene: Scene) -> None:
    scene.system.kill(scene.random.choice(["worker-1", "worker-2"]))


def kill_aggregator(scene: Scene) -> None:
    scene.system.kill("aggregator")


def kill_beat(scene: Scene) -> None:
    scene.system.kill("beat")


def freeze_worker(scene: Scene) -> None:
    seconds = scene.system.settings.lease_seconds * 1.7
    scene.system.freeze(scene.random.choice(["worker-1", "worker-2"]), seconds)


def freeze_aggregator(scene: Scene) -> None:
    scene.system.freeze("aggregator", 2.0)


def replace_frozen_writer(scene: Scene) -> None:
    """The aggregator that writes sleeps until a second one has its lease, then wakes and goes on as if it had not."""
    if "aggregator-2" not in scene.system.running:
        scene.system.start("aggregator-2")
    with scene.catalog._database.read() as connection:
        leases = tables.leases.c
        holder = connection.scalar(select(leases.holder).where(leases.name == LEASE_NAME)) or ""
    pids = {str(process.pid): name for name, process in scene.system.running.items()}
    scene.system.freeze(pids.get(holder.split(":")[1] if holder else "", "aggregator"), LEASE_SECONDS + 2)


def delete_images(scene: Scene) -> None:
    """A user deletes some of what is indexed by now: it must not come back with a batch that is done again."""
    collection_id = scene.catalog.collections.get(scene.system.settings.collection).id
    while True:
        try:
            live = [image.image_id for image in scene.catalog.images.list(collection_id)]
            chosen = scene.random.sample(live, k=min(3, len(live)))
            scene.catalog.images.delete(collection_id, chosen)
        except CatalogUnavailable:  # PostgreSQL was restarted a moment ago
            wait_a_moment(0.2)
        else:
            scene.deleted.update(chosen)
            return


def restart_valkey(scene: Scene) -> None:
    scene.system.valkey.kill()
    wait_a_moment(scene.random.uniform(0.1, 1.0))
    scene.system.valkey.start()


def lose_valkey(scene: Scene) -> None:
    """Its disk is gone too."""
    scene.system.valkey.kill()
    shutil.rmtree(scene.system.valkey.folder / "appendonlydir", ignore_errors=True)
    scene.system.valkey.start()


def flush_valkey(scene: Scene) -> None:
    with scene.system.valkey.client() as client:
        client.flushall()


def restart_database(scene: Scene) -> None:
    """PostgreSQL as after a power cut; SQLite has no server."""
    if scene.system.postgres is not None:
        scene.system.postgres.stop(signal.SIGQUIT)
        scene.system.postgres.start()


def deliver_twice(scene: Scene) -> None:
    """The same batches to the queue again, and copies of what waits in the stream."""
    columns = tables.job_batches.c
    with scene.catalog._database.read() as connection:
        ids = [row.id for row in connection.execute(tables.job_batches.select().order_by(columns.id).limit(12))]
    app = make_app(scene.system.settings)
    try:
        for batch_id in ids:
            send_batch(app, batch_id, 0)
    finally:
        app.close()
    with scene.system.valkey.client() as client:
        for _entry, fields in client.xrange(STREAM, count=8):
            client.xadd(STREAM, fields)
            client.xadd(STREAM, fields)


def second_aggregator(scene: Scene) -> None:
    scene.system.start("aggregator-2")


def second_beat(scene: Scene) -> None:
    scene.system.start("beat-2")


def corrupt_snapshot(scene: Scene) -> None:
    """The newest snapshot's files are damaged, and the aggregator that would boot from it starts anew."""
    files = sorted(path for path in scene.snapshots.rglob("*") if path.is_file())
    for path in files[-3:]:
        data = bytearray(path.read_bytes())
        if data:
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
    scene.system.kill("aggregator")


def fill_disk(scene: Scene) -> None:
    """No snapshot can be written for a while."""
    if scene.full_disk is None:
        raise NotPossible
    filler = scene.full_disk / "filler"
    try:
        with filler.open("wb") as file:
            while True:
                file.write(b"\0" * 65536)
                file.flush()
    except OSError:
        wait_a_moment(1.5)
    filler.unlink()


class NotPossible(Exception):
    """This machine does not allow it: counted as skipped."""


FAULTS: list[Callable[[Scene], None]] = [
    kill_worker, kill_aggregator, kill_beat, freeze_worker, freeze_aggregator, replace_frozen_writer, restart_valkey,
    lose_valkey, flush_valkey, restart_database, deliver_twice, second_aggregator, second_beat, corrupt_snapshot,
    fill_disk, delete_images,
]  # fmt: skip
COSTS_ATTEMPTS = {kill_worker, freeze_worker}  # not beside a poison picture, whose attempts are to be counted


def small_disk(folder: Path) -> Path | None:
    """A file system of 4 MiB, if this machine lets us mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        return folder if subprocess.run(command, capture_output=True, check=False).returncode == 0 else None
    except OSError:
        return None


def give_back_disk(folder: Path | None) -> None:
    if folder is not None:
        subprocess.run(["umount", str(folder)], capture_output=True, check=False)
