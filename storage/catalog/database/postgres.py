"""All that only PostgreSQL needs: connections, what its errors mean, COPY, and how vectors lie on its pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import URL, Column, Connection, Engine, Table, delete, event, func, select, text
from sqlalchemy import table as sql_table
from sqlalchemy.exc import DBAPIError

from storage.errors import CatalogError

DRIVERS = ("postgresql", "postgresql+psycopg")  # both mean psycopg 3
BINARY_ROWS = "visual_search_binary_rows"  # execution option of statements that read vectors
CONNECT_SECONDS = 10  # a server that is there answers in milliseconds
_LOCK_SECONDS = 30  # as on SQLite: the longest commit of another process that a writer waits for
# A process frozen or cut off inside a transaction would hold its row locks for ever: the server hangs up instead.
_IDLE_IN_TRANSACTION_SECONDS = 120
# A server that the network has lost answers nothing any more: found out within a minute, by the system alone in hours
_GONE = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 50_000}
_LARGEST_ROW_BYTES = 8160  # the most that fits a page; larger rows go to a side table, in pieces of 2 KB
# No JIT: compiling a statement takes longer than any of ours runs. UTC: the driver knows it without a zone database.
_SESSION = {
    "lock_timeout": f"{_LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_SECONDS}s",
    "client_min_messages": "warning",
    "jit": "off",
    "TimeZone": "UTC",
}
# The protocol hands a refused login over as text only, without its code. A server that answers in another
# language counts as unavailable: its message is shown all the same.
_REFUSALS = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied",
    "is not permitted to log in",
    "server does not support SSL",
)


def driver_url(url: URL) -> URL:
    """The same address with our driver. Raises CatalogError when it names no database."""
    if not url.database:
        raise CatalogError("the address of the PostgreSQL catalog ends with the database: postgresql://host/database")
    return url.set(drivername=DRIVERS[-1])


def engine_options() -> dict[str, Any]:
    """How to make the engine: a connection that the server dropped meanwhile is replaced before it is used."""
    return {
        "pool_pre_ping": True,
        "hide_parameters": True,  # vectors and file names do not belong into logs
        "connect_args": {"connect_timeout": CONNECT_SECONDS, "application_name": "visual-search", **_GONE},
    }


def prepare_engine(engine: Engine) -> None:
    """Give every connection of the engine our session settings."""
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "before_cursor_execute", _before_execute)


def _on_connect(connection: Any, _record: Any) -> None:
    connection.autocommit = True
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SESSION.items())
    connection.execute(f"SELECT {settings}")
    connection.autocommit = False


def _before_execute(_connection: Any, cursor: Any, _statement: Any, _parameters: Any, context: Any, _many: Any) -> None:
    """Let vectors come as bytes, not as hex text: twice as fast. Not for all, as reflection expects text."""
    if context is not None and context.execution_options.get(BINARY_ROWS):
        cursor.format = 1


def refuses_login(message: str) -> bool:
    """Whether the server said no (password, database, permission): a retry cannot help."""
    return "connection failed" in message and any(refusal in message for refusal in _REFUSALS)


def check_encoding(connection: Connection) -> None:
    """Raises CatalogError unless the database holds every character that an image id may have."""
    encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise CatalogError(f"the database is encoded as {encoding}: make one with ENCODING 'UTF8' for the catalog")


def database_bytes(connection: Connection) -> int:
    """The size of the whole database."""
    return int(connection.execute(select(func.pg_database_size(func.current_database()))).scalar_one())


def store_vectors_plainly(connection: Connection) -> None:
    """Keep vectors uncompressed, for they do not shrink; those over 2,000 bytes lie beside the rows.

    Kept inside the rows instead (toast_tuple_target), they were read 30 % faster, but new ones half as fast.
    """
    connection.execute(text("ALTER TABLE vectors ALTER COLUMN vector SET STORAGE EXTERNAL"))


def staging_name(table: Table) -> str:
    """The temporary table that `copy_rows` fills."""
    return f"staged_{table.name}"


def copy_rows(connection: Connection, table: Table, names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """COPY converted rows into a temporary table, in place of those before; it is empty after the transaction."""
    import psycopg

    staging = staging_name(table)
    like = f"(LIKE {table.name} INCLUDING STORAGE) WITH (toast_tuple_target = {_LARGEST_ROW_BYTES})"
    create = f"CREATE TEMPORARY TABLE IF NOT EXISTS {staging} {like} ON COMMIT DELETE ROWS"
    statement = f"COPY {staging} ({', '.join(names)}) FROM STDIN (FORMAT BINARY)"
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor:
            cursor.execute(f"{create}; {delete(sql_table(staging))}")  # one round trip
            with cursor.copy(statement) as copy:
                copy.set_types([_type_name(connection, table.c[name]) for name in names])
                for row in rows:
                    copy.write_row(row)
    except psycopg.Error as error:
        raise DBAPIError.instance(statement, None, error, psycopg.Error, hide_parameters=True) from error


def _type_name(connection: Connection, column: Column[Any]) -> str:
    return column.type.compile(connection.dialect).partition(" COLLATE")[0].lower()
