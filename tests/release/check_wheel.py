"""Installs the built wheel into a clean environment and uses it as a stranger would: index, search, audit, `up`, page.

Usage: python tests/release/check_wheel.py dist/visual_search-*.whl --constraint constraints.txt
Nothing of this repository is on the path of what is tested; the exit code says whether all of it worked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

_READY_SECONDS = 120
_PACKAGES = ("visual_search", "query_service", "workers", "pipeline", "storage")
_PICTURES = """
from PIL import Image
import os
os.makedirs("photos", exist_ok=True)
for number in range(6):
    image = Image.linear_gradient("L").rotate(40 * number).convert("RGB")
    image.save(f"photos/{number}.jpg")
"""


class Installed:
    """A clean environment with the wheel in it, and an empty folder to work in."""

    def __init__(self, home: Path, wheel: Path, constraint: Path) -> None:
        self.work = home / "work"
        self.work.mkdir()
        venv.create(home / "venv", with_pip=True)
        self._bin = home / "venv" / "bin"
        kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
        self._environment = {
            **kept,
            "PATH": f"{self._bin}:{os.defpath}",
            "VISUAL_SEARCH_DATA_DIR": str(self.work / "data"),
            "VISUAL_SEARCH_MODEL": "baseline",
            "VISUAL_SEARCH_HTTP_PORT": "0",
        }
        self.run("python", "-m", "pip", "install", "--quiet", "--constraint", str(constraint), str(wheel))

    def run(self, *command: str) -> str:
        """The command's output; ends everything with what it printed when it fails."""
        ended = subprocess.run(
            [str(self._bin / command[0]), *command[1:]],
            cwd=self.work, env=self._environment, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """The command in the background, its output in `up.log`."""
        with (self.work / "up.log").open("wb") as log:
            return subprocess.Popen(
                [str(self._bin / command[0]), *command[1:]],
                cwd=self.work, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip


def check_contents(wheel: Path) -> None:
    """Every file of the five packages is in it, and nothing else but its own metadata."""
    root = Path(__file__).parents[2]
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--", *_PACKAGES], cwd=root, capture_output=True, text=True, check=True
    ).stdout.split("\0")[:-1]
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    _expect(held == set(tracked), f"differs from the repository: {sorted(held ^ set(tracked))}")
    print(f"{len(held)} files, all of the five packages")


def check_library(installed: Installed) -> None:
    """Index, search, audit in one process each."""
    installed.run("python", "-c", _PICTURES)
    print(installed.run("visual-search", "--version").strip())
    installed.run("visual-search", "index", "photos")
    found = json.loads(installed.run("visual-search", "search", "--image", "photos/3.jpg", "-k", "2", "--json"))
    _expect([one["image_id"] for one in found["results"]][:1] == ["3.jpg"], f"another picture first: {found}")
    installed.run("visual-search", "search", "--id", "3.jpg", "--html", "found.html")
    _expect("<img" in (installed.work / "found.html").read_text(), "no pictures on the page of results")
    installed.run("visual-search", "man", "man1")
    _expect((installed.work / "man1" / "visual-search-search.1").exists(), "no manual page")
    installed.run("visual-search", "audit", "photos")
    print("index, search, audit: as they should be")


def check_system(installed: Installed) -> None:
    """Everything at once; its page, and a search by the running service."""
    up = installed.start("visual-search", "up")
    try:
        address = _address(installed, up)
        _wait_until_ready(address, up)
        for path in ("", "static/app.js", "static/app.css", "docs", "docs.css", "openapi.json"):
            with urlopen(address + path, timeout=30) as answer:  # noqa: S310 - our own address
                _expect(answer.status == 200 and len(answer.read()) > 0, f"{path} is empty")
        asked = json.loads(installed.run("visual-search", "search", "--service", "--id", "3.jpg", "-k", "1", "--json"))
        _expect(len(asked["results"]) == 1, f"no result: {asked}")
    finally:
        up.send_signal(signal.SIGTERM)
        code = up.wait(60)
    _expect(code == 0, f"`up` ended with {code}")
    print("up, page, search by the service: as they should be")


def _address(installed: Installed, up: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and up.poll() is None:
        found = re.search(r"web page at (http://\S+/),", (installed.work / "up.log").read_text())
        if found:
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f"`up` told no address:\n{(installed.work / 'up.log').read_text()}")


def _wait_until_ready(address: str, up: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and up.poll() is None:
        try:
            with urlopen(address + "readyz", timeout=10):  # noqa: S310 - the same
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("the system did not become ready")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise SystemExit(otherwise)


def main() -> None:
    """Install, check, tell the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--constraint", type=Path, default=Path("constraints.txt"))
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="visual-search-wheel-") as home:
        installed = Installed(Path(home), arguments.wheel.absolute(), arguments.constraint.absolute())
        check_contents(arguments.wheel)
        print(f"installed {arguments.wheel.name} in {time.monotonic() - started:.0f} s")
        check_library(installed)
        check_system(installed)
    print(f"all of it in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
