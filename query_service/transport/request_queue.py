"""The names of searches in Redis and how one is sent: streams by priority, one-shot reply keys, cancelled ids.

Pure functions and script texts, shared by sync and async clients; `taken_requests` is the worker's end. Scripts are
sent as text (EVAL): a Redis that was restarted or flushed then needs nothing from us.
"""

from __future__ import annotations

from query_service.protocol import ErrorReply, Priority, SearchReply, SearchRequest
from query_service.wire import pack_reply, pack_request

STREAMS: dict[Priority, str] = {  # highest first: in this order they are answered
    "high": "vs:search:high",
    "normal": "vs:search:normal",
    "low": "vs:search:low",
}
GROUP = "query"
CANCELLED = "vs:search:cancelled"  # sorted set: request id, by the Redis milliseconds when it may be forgotten
DEAD_LETTERS = "vs:search:dead"
REPLY_TTL_MS = 10_000  # of a reply that nobody fetches: its client is gone or has given up

ID_FIELD, MESSAGE_FIELD, TIMEOUT_FIELD = "id", "m", "t"

# KEYS: stream, reply key. ARGV: bound, request id, message, timeout in ms, the reply that says "busy".
# Returns the entry's id, or nil when the queue was full and the reply lies there already.
SUBMIT_SCRIPT = f"""
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then
  redis.call('RPUSH', KEYS[2], ARGV[5])
  redis.call('PEXPIRE', KEYS[2], {REPLY_TTL_MS})
  return false
end
return redis.call('XADD', KEYS[1], '*', '{ID_FIELD}', ARGV[2], '{MESSAGE_FIELD}', ARGV[3], '{TIMEOUT_FIELD}', ARGV[4])
"""

# KEYS: the sorted set; the reply key, if whoever waits is to be told. ARGV: request id, milliseconds to remember it,
# the reply that says "cancelled". Forgets those whose time is over.
CANCEL_SCRIPT = f"""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if KEYS[2] then
  redis.call('RPUSH', KEYS[2], ARGV[3])
  redis.call('PEXPIRE', KEYS[2], {REPLY_TTL_MS})
end
return 1
"""


def reply_key(request_id: str) -> str:
    """The list on which the one reply to this request comes."""
    return f"vs:reply:{request_id}"


def submit_arguments(request: SearchRequest, bound: int) -> tuple[int, str, str, int, str, bytes, int, bytes]:
    """What follows SUBMIT_SCRIPT in EVAL; `bound` searches of this priority may wait, else the reply is `busy`.

    Raises MalformedMessage when the request is too large to be sent.
    """
    timeout_ms = max(1, round(1000 * request.timeout_seconds))
    keys = (STREAMS[request.priority], reply_key(request.request_id))
    return 2, *keys, bound, request.request_id, pack_request(request), timeout_ms, _busy(request, bound)


def cancel_arguments(request_id: str, timeout_seconds: float) -> tuple[int, str, str, int]:
    """What follows CANCEL_SCRIPT in EVAL: remember that nobody waits, for as long as the request could be alive."""
    return 1, CANCELLED, request_id, max(1, round(1000 * timeout_seconds))


def cancel_and_tell_arguments(request_id: str, timeout_seconds: float) -> tuple[int, str, str, str, int, bytes]:
    """The same for a search that somebody else may wait for: they get the reply `cancelled` at once."""
    error = ErrorReply(reason="cancelled", message="this search was cancelled")
    reply = pack_reply(SearchReply(request_id=request_id, error=error))
    return 2, CANCELLED, reply_key(request_id), request_id, max(1, round(1000 * timeout_seconds)), reply


def _busy(request: SearchRequest, bound: int) -> bytes:
    message = f"{bound} searches of {request.priority} priority wait already: try again in a moment"
    error = ErrorReply(reason="busy", message=message, retryable=True)
    return pack_reply(SearchReply(request_id=request.request_id, error=error))
