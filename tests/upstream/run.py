"""Runs the tests that need other projects' source: transformers' own common tests on our classes, the ones that every
model inside transformers has to pass, and our learning rate against timm's.

    python tests/upstream/run.py [options of pytest]

Both come from source distributions, which pip fetches into a cache outside the project: transformers' tests, which its
wheel lacks, in the version that is installed; and timm's schedulers alone, since timm itself would bring torchvision
and with that another torch. Our test files are laid where those of a model inside transformers lie,
`tests/models/NAME/`, and run by pytest.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

#: The version of timm that the learning rate is compared with.
TIMM = "1.0.31"

#: What the common tests import from sub-packages that the source distribution lacks, and what stands in for it.
MISSING_MODULES = {
    "tests/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "tests/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Keywords that every configuration takes, each with a value that is not its default.
    "tests/utils/test_configuration_utils.py": """config_common_kwargs = {
    "architectures": ["EcgJepaModel"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "label"},
    "is_encoder_decoder": True,
    "label2id": {"label": "0"},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}
""",
}


def fetched(package: str, release: str, part: str) -> Path:
    """The folder that holds `part/` of that release of a package, fetched when it is not in the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecg-jepa"
    tree = cache / f"{package}-{release}"
    if not tree.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            unpack(download(package, release, Path(scratch)), part, Path(scratch)).rename(tree)
    return tree


def download(package: str, release: str, folder: Path) -> Path:
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
    subprocess.run([*fetch, f"{package}=={release}"], check=True)
    (archive,) = folder.glob(f"{package}-*.tar.gz")
    return archive


def unpack(archive: Path, part: str, folder: Path) -> Path:
    with tarfile.open(archive) as contents:
        top = contents.next().name.split("/")[0]
        wanted = [member for member in contents.getmembers() if member.name.startswith(f"{top}/{part}/")]
        contents.extractall(folder, members=wanted, filter="data")
    return folder / top


def complete(tree: Path) -> Path:
    """Adds what the source distribution lacks and our tests; returns the folder of the latter."""
    for name, text in MISSING_MODULES.items():
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(text)
    ours = tree / "tests/models/ecg_jepa"
    ours.mkdir(parents=True, exist_ok=True)
    for stale in ours.glob("test_*.py"):
        stale.unlink()
    for file in HERE.glob("test_*.py"):
        shutil.copy(file, ours)
    for folder in [tree / "tests", *(path for path in (tree / "tests").rglob("*") if path.is_dir())]:
        (folder / "__init__.py").touch()
    (tree / "pytest.ini").write_text("[pytest]\n")
    return ours


def main() -> int:
    tree = fetched("transformers", version("transformers"), "tests")
    timm = fetched("timm", TIMM, "timm/scheduler")
    ours = complete(tree)
    # Offline, since some common tests would ask the Hub; one thread, since more of them only get in each other's way on
    # models this small.
    sources = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(timm)])}
    environment = {"OMP_NUM_THREADS": "1", **os.environ, **sources, "HF_HUB_OFFLINE": "1"}
    pytest = [sys.executable, "-m", "pytest", "-q", "-c", "pytest.ini", "-p", "no:cacheprovider", "--disable-warnings"]
    return subprocess.run([*pytest, *sys.argv[1:], ours], cwd=tree, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
