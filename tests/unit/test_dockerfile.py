"""deploy/Dockerfile, linted by hadolint; what no linter knows of is read from its instructions. It was never built."""

import re
import shutil
import subprocess
import sys

import pytest
from deployment_tools import ROOT, run

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TARGETS = ("cpu", "cuda", "development")
PACKAGES = ("visual_search", "query_service", "workers", "pipeline", "storage")


def _stages():
    """The instructions of each stage, lines that go on joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    stages = {}
    for block in re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        base, _, name = head.partition(" AS ")
        stages[name] = (base, [line.strip() for line in lines if line.strip()])
    return stages


def _all_of(name):
    """A stage's own instructions, behind those of the stages that it stands on."""
    stages = _stages()
    base, own = stages[name]
    return (*(_all_of(base) if base in stages else ()), *own)


def test_hadolint_has_nothing_to_say():
    assert run("hadolint", "--no-color", "--failure-threshold", "style", DOCKERFILE) == ""


def test_hadolint_would_say_it():
    said = run("hadolint", "--no-color", "-", given="FROM python\nCMD python x\n", expected=1)
    assert "DL3006" in said
    assert "DL3025" in said


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_a_numbered_user_without_a_shell_and_without_what_built_it(target):
    lines = _all_of(target)
    assert [line for line in lines if line.startswith("USER ")] == ["USER 10001:10001"]
    [command] = [line for line in lines if line.startswith(("CMD ", "ENTRYPOINT "))]
    assert re.fullmatch(r'CMD \["[^\]]+\]', command)
    assert "STOPSIGNAL SIGTERM" in lines
    build = "build-development" if target == "development" else "build"
    copies = [line for line in lines if line.startswith("COPY")]
    assert copies == [f"COPY --from={build} /opt/venv /opt/venv"], "neither source nor pip's downloads"


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_says_what_it_is(target):
    [labels] = [line for line in _all_of(target) if line.startswith("LABEL ")]
    named = set(re.findall(r"org\.opencontainers\.image\.(\w+)=", labels))
    assert named == {"title", "description", "licenses", "version", "revision"}


def test_the_image_for_cpus_is_built_where_no_target_is_named():
    assert list(_stages())[-1] == "cpu"


def test_dependencies_are_a_layer_that_a_change_of_the_program_leaves_alone():
    _base, lines = _stages()["build"]
    installs = [number for number, line in enumerate(lines) if "pip install" in line]
    program = [number for number, line in enumerate(lines) if re.match(r"COPY (storage|workers|visual_search) ", line)]
    assert installs[0] < min(program) < max(program) < installs[1]
    copied = " ".join(line for line in lines[: installs[0]] if line.startswith("COPY"))
    assert copied == "COPY pyproject.toml constraints.txt ./ COPY visual_search/version.py visual_search/version.py"


def test_what_the_image_copies_is_there_and_let_through_and_nothing_else_is():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = set()
    for sources in re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists(), source
            copied.add(source.split("/")[0])
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


@pytest.mark.slow
def test_the_steps_of_the_build_make_the_whole_program_of_what_they_copy(tmp_path):
    """The build stage's COPY and `pip install` without a container: all of the program is in what is installed."""
    image = tmp_path / "source"
    _base, lines = _stages()["build"]
    installs = [number for number, line in enumerate(lines) if "pip install" in line]
    _copy(lines[: installs[0]], image)
    for name in re.search(r"touch ([\w. ]+\w) +&&", lines[installs[0]])[1].split():
        (image / name).touch()
    first = _installed(image, tmp_path / "first")
    assert first == {"visual_search/version.py"}, "what the program needs is installed by this alone"
    _copy(lines[installs[0] :], image)
    tracked = subprocess.check_output(["git", "ls-files", *PACKAGES], cwd=ROOT, text=True).splitlines()
    assert set(tracked) - _installed(image, tmp_path / "second") == set()


def _copy(lines, image):
    for line in lines:
        if line.startswith("COPY "):
            *sources, target = line.split()[1:]
            for source in sources:
                place = image / (source if target == "./" else target)
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(
                        ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
                    )
                else:
                    shutil.copyfile(ROOT / source, place)


def _installed(image, folder):
    """The files that pip installs from this tree, without what it needs, and without their compiled forms."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-compile"]
    subprocess.run([*command, "--target", folder, image], check=True, capture_output=True)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in files if name.split("/")[0] in PACKAGES}
