"""What pip sees of the project: one version, extras, tested versions, and a wheel without what runs from a checkout."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import modeling_ecg_jepa

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CONSTRAINT_LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
PINS = {canonicalize_name(name): pin for name, _, pin in (line.partition("==") for line in CONSTRAINT_LINES)}


#: Packages that a CUDA build of torch pins itself; CI runs the CPU build, which has none.
PINNED_BY_TORCH = ("nvidia-", "cuda-", "triton")


def declared_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    lines = PROJECT["dependencies"] + [line for extra, own in extras.items() if extra != "all" for line in own]
    return [Requirement(line) for line in lines]


def requirements_of(requirement: Requirement) -> list[Requirement]:
    """What an installed package needs here, with the extras asked for; nothing for one that is not installed."""
    try:
        lines = requires(requirement.name) or []
    except PackageNotFoundError:
        return []
    environments = [default_environment() | {"extra": extra} for extra in ("", *requirement.extras)]
    needed = map(Requirement, lines)
    return [need for need in needed if not need.marker or any(map(need.marker.evaluate, environments))]


def all_requirements() -> dict[str, list[Requirement]]:
    """Direct and transitive requirements by canonical name, as the installed packages declare them."""
    found: dict[str, list[Requirement]] = {}
    open_ends = declared_requirements()
    while open_ends:
        requirement = open_ends.pop()
        known = found.setdefault(canonicalize_name(requirement.name), [])
        if str(requirement) not in map(str, known):
            known.append(requirement)
            open_ends += requirements_of(requirement)
    return found


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "modeling_ecg_jepa.__version__"}
    assert version("ecg-jepa") == modeling_ecg_jepa.__version__
    assert str(Version(modeling_ecg_jepa.__version__)) == modeling_ecg_jepa.__version__


def test_every_dependency_has_a_lower_bound():
    for requirement in declared_requirements():
        assert [part.operator for part in requirement.specifier] == [">="], f"{requirement} needs one tested bound"


def test_all_holds_every_extra():
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert everything.name == "ecg-jepa"
    assert everything.extras == set(PROJECT["optional-dependencies"]) - {"all"}
    assert everything.extras >= {"train", "test", "dev"}


def test_constraints_are_exact_versions_with_torch_first():
    assert CONSTRAINT_LINES[0] == "torch==2.13.0"
    for line in CONSTRAINT_LINES:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line), f"{line!r} is not NAME==VERSION"


def test_constraints_cover_every_dependency_and_satisfy_it():
    for name, requirements in all_requirements().items():
        if name.startswith(PINNED_BY_TORCH):
            continue
        assert name in PINS, f"constraints.txt lacks {name}, needed here as {requirements[0]}"
        for requirement in requirements:
            assert requirement.specifier.contains(PINS[name], prereleases=True), f"{name}=={PINS[name]}: {requirement}"


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory) -> list[str]:
    """The names inside a wheel built from a copy of the sources, with the setuptools at hand."""
    source = tmp_path_factory.mktemp("source")
    for name in ("modeling_ecg_jepa", "dataset_scripts", "train", "tests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "fixtures"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = source.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_holds_what_is_imported_and_nothing_that_runs_from_a_checkout(wheel_files):
    packages = {name.split("/")[0] for name in wheel_files if ".dist-info/" not in name}
    assert packages == {"modeling_ecg_jepa", "dataset_scripts"}
    for name in ("modeling_ecg_jepa/py.typed", "modeling_ecg_jepa/tools/__init__.py", "dataset_scripts/__init__.py"):
        assert name in wheel_files
    assert "modeling_ecg_jepa/tools/card_template.md" in wheel_files


def test_the_wheel_holds_every_python_file_of_its_packages(wheel_files):
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in ("modeling_ecg_jepa", "dataset_scripts")
        for path in (ROOT / package).rglob("*.py")
    }
    assert sources == {name for name in wheel_files if name.endswith(".py")}
    assert any(name.endswith("licenses/LICENSE") for name in wheel_files)
