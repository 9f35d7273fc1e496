"""Attributes from a sidecar file: CSV with a header, or JSON Lines; one row an image."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import SidecarError
from storage.attributes import exact_number, normal_attributes
from storage.errors import InvalidAttribute
from storage.records import Attributes

_ID_COLUMNS = ("image_id", "id", "path", "file", "filename", "file_name", "key")
_ATTRIBUTES = TypeAdapter(Attributes)


def read_sidecar(path: Path) -> dict[str, Attributes]:
    """Map image id to attributes. The id stands in a column named image_id, id, path, file, filename or key.

    In CSV, a cell that reads exactly as a number or as true/false becomes one (`007` stays text), an empty cell
    means no such attribute. Raises SidecarError naming the line.
    """
    reader = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}.get(path.suffix.lower())
    if reader is None:
        raise SidecarError(f"{path}: attributes come from a .csv or .jsonl file")
    attributes: dict[str, Attributes] = {}
    try:
        for line, row in reader(path):
            image_id = _take_id(row, f"{path}, line {line}")
            if image_id in attributes:
                raise SidecarError(f"{path}, line {line}: a second row for '{image_id}'")
            attributes[image_id] = _checked(row, f"{path}, line {line}")
    except OSError as error:
        raise SidecarError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SidecarError(f"{path} is not UTF-8 text") from error
    return attributes


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True, skipinitialspace=True)
        try:
            _check_header(path, reader)
            for row in reader:
                if None in row:
                    raise SidecarError(f"{path}, line {reader.line_num}: more cells than the header has columns")
                yield reader.line_num, {key: _cell(cell.strip()) for key, cell in row.items() if cell and cell.strip()}
        except csv.Error as error:
            raise SidecarError(f"{path}, line {reader.line_num}: {error}") from error


def _check_header(path: Path, reader: csv.DictReader[str]) -> None:
    reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
    twice = sorted({name for name in reader.fieldnames if reader.fieldnames.count(name) > 1})
    if twice:
        raise SidecarError(f"{path}: the header names {', '.join(map(repr, twice))} twice")


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise SidecarError(f"{path}, line {number}: not JSON ({error.msg})") from error
            except RecursionError as error:
                raise SidecarError(f"{path}, line {number}: nested too deeply") from error
            if not isinstance(row, dict):
                raise SidecarError(f"{path}, line {number}: not a JSON object")
            yield number, row


def _cell(text: str) -> str | int | float | bool:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            value = number(text)
        except ValueError:
            continue
        if str(value) == text and exact_number(value):
            return value
    return text


def _take_id(row: dict[str, Any], where: str) -> str:
    for column in _ID_COLUMNS:
        if row.get(column) not in (None, ""):
            return str(row.pop(column))
    raise SidecarError(f"{where}: no image id (a column named {', '.join(_ID_COLUMNS)})")


def _checked(row: dict[str, Any], where: str) -> Attributes:
    try:
        return normal_attributes(_ATTRIBUTES.validate_python(row, strict=True))
    except InvalidAttribute as error:
        raise SidecarError(f"{where}: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0])
        raise SidecarError(f"{where}: attribute '{key}' is no text, number, true/false or list of texts") from error
