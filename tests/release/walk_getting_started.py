"""Walks the path of a new user: every command of docs/getting-started.md, as it stands there, in an empty home.

Usage: python tests/release/walk_getting_started.py --environment .venv [--model CHECKPOINT] [--json FILE]
The environment is one in which Visual Search is installed; the home, the pictures and an S3 server are made here and
thrown away. Prints each command with its exit code and seconds; its own exit code is 1 when one of them failed.
What downloads or installs (`make ...`) is not run here. `--model` stands in for CLIP, which needs the Hugging Face hub:
it is set as VISUAL_SEARCH_MODEL, by default to a seeded tiny checkpoint, made here, whose answers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.request import urlopen

PAGE = Path(__file__).parents[2] / "docs" / "getting-started.md"
_PATIENCE_SECONDS = 600  # for one command; a loaded machine is slow
_PICTURES = """
import random
import sys
from pathlib import Path
from PIL import Image, ImageDraw

def picture(path, seed):
    dice = random.Random(seed)
    image = Image.effect_noise((320, 240), 20).convert("RGB")
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = dice.randrange(320), dice.randrange(240)
        draw.ellipse((x, y, x + dice.randrange(20, 160), y + dice.randrange(20, 120)), tuple(dice.randbytes(3)))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        image.save(path, quality=90)

first, last = map(int, sys.argv[1:])
for number in range(first, last):
    picture(Path.home() / f"Pictures/{2023 + number % 2}/{number:03}.jpg", number)
picture(Path.home() / "Pictures/2024/cat.jpg", 1000)
picture(Path.home() / "work/holiday.jpg", 1001)
"""
_FIRST, _ALL = 40, 100  # pictures that are there from the beginning, and when the workers come


@dataclass(frozen=True)
class Command:
    """One command line of the page, and the heading that it stands under."""

    section: str
    line: str


@dataclass(frozen=True)
class Outcome:
    """What became of it; the exit code is None for what was not run, with the reason as its output."""

    section: str
    line: str
    code: int | None
    seconds: float
    output: str


def commands_of(page: str) -> Iterator[Command | tuple[str, str]]:
    """Every command in order, and, where the page shows a file by `$ cat NAME`, its name and content."""
    section, shown, content = "", "", ""
    for line in [*page.splitlines(), ""]:
        inside = line[4:] if line.startswith("    ") else None
        if shown and inside is None:
            yield shown, content
            shown, content = "", ""
        elif shown:
            content += f"{inside}\n"
        elif line.startswith("## "):
            section = line[3:]
        elif inside is not None and inside.startswith("$ cat "):
            shown = inside.removeprefix("$ cat ")
        elif inside is not None and re.match(r"(visual-search|make|source|\.) ", inside):
            yield Command(section, inside)


class NewUser:
    """A home with pictures, a shell that has the command on its path, and nothing else of whoever runs this."""

    def __init__(self, home: Path, environment: Path) -> None:
        self.work = home / "work"
        self._python = environment / "bin" / "python"
        self.variables = {
            "HOME": str(home),
            "PATH": f"{environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "VISUAL_SEARCH_HTTP_PORT": "0",  # so that it also runs where something else has the port
            "VISUAL_SEARCH_SEARCH_SECONDS": "120",  # a loaded machine takes longer than people wait
        }
        self._up: subprocess.Popen[bytes] | None = None
        self.work.mkdir()
        self._take_pictures(0, _FIRST)
        (self.work / "names.txt").write_text("2024/001.jpg\n2024/003.jpg\n2024/cat.jpg\n")

    def _take_pictures(self, first: int, last: int) -> None:
        subprocess.run([self._python, "-c", _PICTURES, str(first), str(last)], env=self.variables, check=True)

    def run(self, command: Command) -> Outcome:
        """Run one line of the page in a shell of its own."""
        if command.line.startswith(("make ", ". ", "source ")):
            return Outcome(command.section, command.line, None, 0.0, "installs: run on its own")
        started = time.monotonic()
        if shlex.split(command.line, comments=True) == ["visual-search", "up"]:
            code, output = self._start(command.line)
        else:
            ended = subprocess.run(
                ["bash", "-c", f"{command.line}\nexit $?"],
                cwd=self.work, env=self.variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, check=False, timeout=_PATIENCE_SECONDS,
            )  # fmt: skip
            code, output = ended.returncode, ended.stdout
        return Outcome(command.section, command.line, code, time.monotonic() - started, output)

    def _start(self, line: str) -> tuple[int, str]:
        """In a terminal of its own; counted until the address that it prints says that everything is ready."""
        self._take_pictures(_FIRST, _ALL)  # something for the workers to do
        log = self.work / "up.log"
        with log.open("wb") as out:
            self._up = subprocess.Popen(
                ["bash", "-c", f"exec {line}"],
                cwd=self.work, env=self.variables, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline and self._up.poll() is None:
            address = re.search(r"web page at (http://\S+/)", log.read_text())
            if address and _answers(f"{address[1]}readyz") and _answers(address[1]):
                return 0, f"ready at {address[1]}"
            time.sleep(0.2)
        return self._up.poll() or 1, log.read_text()

    def leave(self) -> Outcome | None:
        """End `visual-search up` as Ctrl-C does; None when it never ran."""
        if self._up is None:
            return None
        started = time.monotonic()
        self._up.send_signal(signal.SIGINT)
        code = self._up.wait(_PATIENCE_SECONDS)
        return Outcome("Queued, with workers", "Ctrl-C", code, time.monotonic() - started, "")


def _answers(address: str) -> bool:
    try:
        with urlopen(address, timeout=10) as answer:  # noqa: S310 - our own address
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def bucket_of_pictures(home: Path) -> Iterator[dict[str, str]]:
    """The bucket that the page names, on an S3 server of this machine, with the pictures in it; its variables."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each request
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    session = boto3.session.Session(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"], None, "us-east-1")
    client = session.client("s3", endpoint_url=address)
    client.create_bucket(Bucket="my-bucket")
    for path in sorted((home / "Pictures").rglob("*.jpg")):
        client.put_object(Bucket="my-bucket", Key=f"photos/{path.name}", Body=path.read_bytes())
    client.close()
    try:
        yield {**keys, "AWS_ENDPOINT_URL_S3": address}
    finally:
        server.stop()


def walk(environment: Path, model: str | None) -> Iterator[Outcome]:
    """Everything on the page, one after the other, in a home that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="new-user-") as folder:
        user = NewUser(Path(folder), environment)
        user.variables["VISUAL_SEARCH_MODEL"] = model or _tiny_checkpoint(Path(folder) / ".checkpoint")
        with bucket_of_pictures(Path(folder)) as variables:
            user.variables |= variables
            try:
                for step in commands_of(PAGE.read_text(encoding="utf-8")):
                    if isinstance(step, Command):
                        yield user.run(step)
                    else:
                        (user.work / step[0]).write_text(step[1])
            finally:
                ended = user.leave()
        if ended is not None:
            yield ended


def _tiny_checkpoint(folder: Path) -> str:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from checkpoints import save_tiny_clip

    return str(save_tiny_clip(folder))


def tell(outcome: Outcome) -> None:
    """One line, and the output of what failed."""
    code = "  -" if outcome.code is None else f"{outcome.code:3}"
    print(f"{code}  {outcome.seconds:6.1f} s  {outcome.line.split('  #')[0].rstrip()}", flush=True)
    if outcome.code:
        print(outcome.output)


def main() -> int:
    """Walk, and say whether all of it worked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environment", type=Path, default=Path(sys.prefix), help="virtual environment to use")
    parser.add_argument("--model", help="checkpoint folder or hub name in place of the seeded tiny one")
    parser.add_argument("--json", type=Path, help="write the outcomes here")
    arguments = parser.parse_args()
    outcomes = []
    for outcome in walk(arguments.environment.absolute(), arguments.model):
        outcomes.append(outcome)
        tell(outcome)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(one) for one in outcomes], indent=2))
    failed = [one for one in outcomes if one.code]
    run = [one for one in outcomes if one.code is not None]
    print(f"{len(run)} commands in {sum(one.seconds for one in run):.0f} s, {len(failed)} failed")
    return int(bool(failed) or len(run) < 10)


if __name__ == "__main__":
    sys.exit(main())
