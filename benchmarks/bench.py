"""`make bench`: the stages one after the other, each in a fresh process; tables, and JSON in benchmarks/results/.

python benchmarks/bench.py [STAGE ...] [--quick] [--repeats N] [--data FOLDER] [--list]. What stands in a table was
measured in turns: ours, the peer, ours again, the peer again. Needs nothing beside the repository.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import RESULTS, in_fresh_process, keep
from report import as_dict, machine, markdown, show_table
from stage import LEAST_REPEATS, Given, Table

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Stage:
    """A module of this folder with `measure(given)`; `threads` None: as many as there are cores.

    A program of this folder that prints tables of its own is run as it stands, and its text is kept.
    """

    module: str
    shows: str
    threads: int | None = None
    program: bool = False


STAGES: dict[str, Stage] = {
    "decode": Stage("decoding", "JPEG bytes to the model's input, on one core", threads=1),
    "clip-core": Stage("embedding", "CLIP on one core: torch, onnxruntime, ours in float32 and int8", threads=1),
    "clip": Stage("embedding", "the same on all cores"),
    "start": Stage("first_vector", "from the start of a process to its first vector: time and memory"),
    "fidelity": Stage("fidelity", "int8 and reduced decoding: how near, and what an evaluation says"),
    "search": Stage("exact_search", "exact search against FAISS as it comes"),
    "snapshot": Stage("snapshot_ready", "a million vectors ready to be searched"),
    "sql": Stage("catalog_speed", "vectors a second into the catalog and out of it", program=True),
    "indexing": Stage("indexing_stages", "images a second of each stage of indexing"),
    "end-to-end": Stage("end_to_end", "indexing against the model alone, the limit, and a loop written by hand"),
}


def measured(module: str, given: Given) -> list[Table]:
    """Run in the stage's own process."""
    tables: list[Table] = importlib.import_module(module).measure(given)
    return tables


def printed(module: str, given: Given) -> str:
    """Run a program of this folder, show what it prints, and return it."""
    command = [sys.executable, str(HERE / f"{module}.py"), *(["--quick"] if given.quick else [])]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=HERE.parent) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        raise RuntimeError(f"{module}.py ended with {process.returncode}")
    return "\n".join(lines)


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Have processes that are started meanwhile compute on so many threads, whatever was set here."""
    before = os.environ.pop("OMP_NUM_THREADS", None)
    if count is not None:
        os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        os.environ.pop("OMP_NUM_THREADS", None)
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


def run(name: str, given: Given) -> dict[str, Any]:
    """Run one stage, print its tables and keep them; a stage that fails is told as such."""
    stage, started = STAGES[name], time.perf_counter()
    print(f"\n== {name}: {stage.shows}", flush=True)
    tables: list[Table] = []
    text = ""
    try:
        with threads(stage.threads):
            if stage.program:
                text = printed(stage.module, given)
            else:
                tables = in_fresh_process(measured, stage.module, given)
    except Exception as error:  # noqa: BLE001 - the outermost shell: the others are measured all the same
        traceback.print_exc()
        return {"stage": name, "shows": stage.shows, "failed": f"{type(error).__name__}: {error}", "tables": []}
    for table in tables:
        show_table(table)
    seconds = time.perf_counter() - started
    figures = {
        "stage": name,
        "shows": stage.shows,
        "on": machine(),
        "seconds": round(seconds, 1),
        "tables": [*map(as_dict, tables)],
        "text": text,
    }
    keep(name, {"given": {**asdict(given), "scratch": "", "data": str(given.data or "")}, **figures})
    return figures


def main() -> None:
    """Measure the stages that were asked for, or all; exits with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; none: all")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see whether it runs")
    parser.add_argument("--repeats", type=int, default=0, help=f"default 5; quick, and at least, {LEAST_REPEATS}")
    parser.add_argument("--data", type=Path, help="a folder of photos to take instead of the demo's")
    parser.add_argument("--list", action="store_true", help="name the stages")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{name:10} {stage.shows}" for name, stage in STAGES.items()))
        return
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    if arguments.data is not None and not arguments.data.is_dir():
        parser.error(f"no folder at {arguments.data}")
    repeats = max(LEAST_REPEATS, arguments.repeats or (LEAST_REPEATS if arguments.quick else 5))
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        os.environ["XDG_CACHE_HOME"] = str(Path(scratch) / "cache")  # exported models go there, and go with it
        given = Given(Path(scratch), repeats, arguments.quick, arguments.data and arguments.data.resolve())
        figures = [run(name, given) for name in arguments.stages or STAGES]
    keep("summary", {"repeats": repeats, "quick": arguments.quick, "stages": figures})
    (RESULTS / "tables.md").write_text(markdown(figures), encoding="utf-8")
    print("written to benchmarks/results/tables.md")
    failed = [one["stage"] for one in figures if "failed" in one]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
