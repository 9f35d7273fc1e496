"""The stream of finished batches on a real Valkey: bounded, at least once, and none the worse for a wipe."""

import json
import threading
import time

import pytest
from servers import wait_for

from storage.catalog import BatchResult, IndexBatch
from workers.errors import BatchInterrupted, RedisUnavailable
from workers.result_stream import DEAD_LETTERS, GROUP, STREAM, ResultStream
from workers.servers import connect_url
from workers.signs.heartbeat import Heartbeat, read_heartbeats
from workers.wire import unpack


@pytest.fixture
def client(redis_url):
    with connect_url(redis_url) as connected:
        yield connected


@pytest.fixture
def stream(client):
    return ResultStream(client, bound=3)


def result(number: int) -> BatchResult:
    return BatchResult(number, 1, IndexBatch(), {"unchanged": number})


def numbers(messages) -> list[int]:
    return [unpack(fields).batch_id for _entry, fields in messages]


def test_results_come_out_in_order_and_are_gone_once_acknowledged(stream):
    for number in (1, 2, 3):
        stream.publish(result(number))
    assert stream.read("a", 2, 0) == [], "the first reader makes the group"
    first = stream.read("a", 2, 0)
    second = stream.read("a", 2, 0)
    assert (numbers(first), numbers(second)) == ([1, 2], [3])
    assert stream.length() == 3
    stream.acknowledge([entry for entry, _fields in first + second])
    stream.acknowledge([])
    assert stream.length() == 0


def test_a_reader_waits_for_the_first_message_and_not_for_ever(stream):
    stream.read("a", 1, 0)
    assert stream.read("a", 1, 100) == []


def test_a_full_stream_holds_the_publisher_back_until_there_is_room(stream):
    for number in (1, 2, 3):
        stream.publish(result(number))
    publisher = threading.Thread(target=stream.publish, args=[result(4)])
    publisher.start()
    time.sleep(0.2)
    assert stream.length() == 3
    stream.read("a", 1, 0)
    stream.acknowledge([entry for entry, _fields in stream.read("a", 1, 0)])
    publisher.join(timeout=180)
    assert numbers(stream.read("a", 9, 0)) == [2, 3, 4]


def test_a_publisher_that_waits_can_be_called_off(stream):
    for number in (1, 2, 3):
        stream.publish(result(number))
    answers = iter([True, False])
    with pytest.raises(BatchInterrupted, match="batch 4"):
        stream.publish(result(4), keep_waiting=lambda: next(answers))
    assert stream.length() == 3


def test_what_a_dead_reader_left_is_taken_over_and_its_deliveries_are_counted(stream):
    stream.publish(result(1))
    stream.read("dead", 1, 0)
    ((entry, _fields),) = stream.read("dead", 1, 0)
    assert stream.reclaim("alive", min_idle_ms=60_000) == []
    assert numbers(stream.reclaim("alive", min_idle_ms=0)) == [1]
    assert stream.deliveries([entry, "1-1"]) == {entry: 2}
    assert stream.read("alive", 1, 0) == []


def test_a_dead_letter_is_kept_with_its_reason_and_out_of_the_way(stream, client):
    stream.publish(result(1))
    stream.read("a", 1, 0)
    ((entry, fields),) = stream.read("a", 1, 0)
    stream.dead_letter(entry, fields, "broken \udcff")
    assert stream.length() == 0
    assert stream.reclaim("a", 0) == []
    ((_id, letter),) = stream.dead_letters()
    assert (letter[b"entry"].decode(), letter[b"reason"]) == (entry, rb"broken \udcff")
    assert unpack(letter).batch_id == 1
    assert client.xlen(DEAD_LETTERS) == 1


def test_a_wiped_server_gets_its_group_again_and_loses_no_later_message(stream, client):
    stream.publish(result(1))
    stream.read("a", 1, 0)
    client.flushall()
    stream.publish(result(2))
    assert stream.deliveries(["1-1"]) == {}
    assert stream.remove_idle_consumers(0) == 0
    assert numbers(stream.read("a", 9, 0)) == [2]
    client.flushall()
    assert stream.reclaim("a", 0) == []
    assert client.xinfo_groups(STREAM)[0]["name"] == GROUP.encode()


def test_two_readers_that_meet_a_new_server_make_one_group(stream, client):
    stream._make_group()
    stream._make_group()
    assert len(client.xinfo_groups(STREAM)) == 1


def test_readers_of_the_past_are_forgotten_unless_they_hold_messages(stream, client):
    stream.publish(result(1))
    stream.read("holds", 1, 0)
    stream.read("holds", 1, 0)
    stream.read("idle", 1, 0)
    assert stream.remove_idle_consumers(60_000) == 0
    assert stream.remove_idle_consumers(0) == 1
    assert [one["name"] for one in client.xinfo_consumers(STREAM, GROUP)] == [b"holds"]


def test_a_server_that_went_away_is_told(own_valkey):
    server = own_valkey()
    with connect_url(server.url) as client:
        server.kill()
        with pytest.raises(RedisUnavailable):
            ResultStream(client, 3).length()


def test_a_heartbeat_tells_progress_from_mere_life(client):
    with Heartbeat(client, "embed", every_seconds=0.02) as heartbeat:
        heartbeat.progress(done=5, doing="batch 7")
        (first,) = wait_for(lambda: [one for one in read_heartbeats(client) if one.done == 5])
        later = wait_for(lambda: [one for one in read_heartbeats(client) if one.alive_at > first.alive_at])
        assert later[0].progressed_at == first.progressed_at
        assert (first.role, first.doing, first.process) == ("embed", "batch 7", heartbeat.process)
        assert 0 < client.ttl(client.keys("vs:heartbeat:*")[0]) <= 600  # until then `status` shows that it is gone
    assert read_heartbeats(client) == []


def test_a_process_is_seen_from_the_first_moment_of_its_heartbeat(redis_url):
    for _ in range(20):  # a thread would be quick enough now and then
        with connect_url(redis_url) as client, Heartbeat(client, "embed"):
            assert [one.role for one in read_heartbeats(client)] == ["embed"]


def test_a_sign_that_did_not_get_through_is_soon_given_again(own_valkey):
    server = own_valkey()
    with connect_url(server.url) as client:
        server.kill()
        with Heartbeat(client, "embed", every_seconds=3600):
            server.start()
            wait_for(lambda: read_heartbeats(client), what="the sign")


def test_a_heartbeat_without_a_server_harms_nobody(own_valkey):
    server = own_valkey()
    with connect_url(server.url) as client, Heartbeat(client, "embed", every_seconds=0.02) as heartbeat:
        wait_for(lambda: read_heartbeats(client))
        assert json.loads(client.get(f"vs:heartbeat:embed:{heartbeat.process}"))["done"] == 0
        server.kill()
        time.sleep(0.1)
        heartbeat.progress(done=1)
