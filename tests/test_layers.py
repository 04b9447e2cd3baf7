"""The layers of the project, read off the imports of every file: no layer imports one above it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from transformers.dynamic_module_utils import get_imports, get_relative_imports

ROOT = Path(__file__).resolve().parents[1]

#: From the bottom up: a file may import its own layer and those before it.
LAYERS = ("modeling_ecg_jepa", "dataset_scripts", "modeling_ecg_jepa.tools", "train")

#: What the code beside a checkpoint may need: transformers, what it brings, and scipy.
TRAVELS_WITH_THE_WEIGHTS = {"torch", "transformers", "numpy", "scipy", "huggingface_hub", "safetensors"}

FILES = sorted(
    path for folder in ("modeling_ecg_jepa", "dataset_scripts", "train") for path in (ROOT / folder).rglob("*.py")
)
TRAVELLING_FILES = sorted((ROOT / "modeling_ecg_jepa").glob("*.py"))


class Import(NamedTuple):
    module: str  # absolute dotted name
    line: int
    is_guarded: bool  # stands in the `try` of a function, which says what to do without it


def imports_of(source: str, package: str) -> Iterator[Import]:
    """Every import in a file of `package`, wherever it stands."""
    tree = ast.parse(source)
    guarded = guarded_nodes(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, node in guarded)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            yield Import(".".join(filter(None, [*base, node.module])), node.lineno, node in guarded)


def guarded_nodes(tree: ast.AST) -> set[ast.AST]:
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    attempts = (node for function in functions for node in ast.walk(function) if isinstance(node, ast.Try))
    return {node for attempt in attempts for statement in attempt.body for node in ast.walk(statement)}


def layer_of(module: str) -> int | None:
    """The height of a module's layer, None for another project's module. The tools sit inside the lowest package."""
    inside = [height for height, layer in enumerate(LAYERS) if f"{module}.".startswith(f"{layer}.")]
    return max(inside, default=None)


def faults_of_layering(source: str, package: str) -> list[str]:
    own = layer_of(package)
    faults = []
    for module, line, is_guarded in imports_of(source, package):
        height = layer_of(module)
        # A pipeline that is given a path reads the record with dataset_scripts, where that package is there.
        is_optional_reader = own == 0 and height == 1 and is_guarded
        if height is not None and height > own and not is_optional_reader:
            faults.append(f"line {line}: {LAYERS[own]} imports {module}, which is a layer above")
    return faults


def faults_of_travelling(path: Path) -> list[str]:
    """What transformers would not copy or would refuse of a checkpoint's code, asked of transformers itself."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.level]
    imported = {"." * (node.level - 1) + (node.module or "") for node in nodes}
    copied = set(get_relative_imports(path))
    siblings = {sibling.stem for sibling in path.parent.glob("*.py")}
    absent = set(get_imports(path)) - TRAVELS_WITH_THE_WEIGHTS - sys.stdlib_module_names
    return [
        *(f"from .{name} import ...: not copied; write `from .x import Y`" for name in imported - copied),
        *(f"from .{name} import ...: text that is taken for an import" for name in copied - imported),
        *(f"from .{name} import ...: not a file beside this one" for name in (imported & copied) - siblings),
        *(f"{name} is not to be had wherever a checkpoint is loaded" for name in absent),
    ]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_layer_imports_one_above_it(path):
    package = ".".join(path.relative_to(ROOT).parent.parts)
    assert faults_of_layering(path.read_text(), package) == []


@pytest.mark.parametrize("path", TRAVELLING_FILES, ids=name_of)
def test_files_that_travel_import_only_siblings_and_what_every_user_has(path):
    assert faults_of_travelling(path) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_file_is_named_for_an_idea(path):
    assert path.stem not in {"utils", "common", "helpers", "misc"}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("modeling_ecg_jepa", "from .tools.convert import convert"),
        ("modeling_ecg_jepa", "import dataset_scripts.records"),
        ("modeling_ecg_jepa", "def read(path):\n    from dataset_scripts.records import read_record"),
        ("dataset_scripts", "from modeling_ecg_jepa.tools.embed import embed"),
        ("dataset_scripts", "def f():\n    import train"),
        ("modeling_ecg_jepa.tools", "from train.metrics import macro_auroc"),
    ],
)
def test_an_import_of_a_higher_layer_is_seen(package, source):
    assert len(faults_of_layering(source, package)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("dataset_scripts", "from modeling_ecg_jepa.leads_ecg_jepa import canonical_lead"),
        ("modeling_ecg_jepa.tools", "from ..errors_ecg_jepa import EcgJepaError"),
        ("modeling_ecg_jepa.tools", "from dataset_scripts import records"),
        ("train", "from modeling_ecg_jepa.tools import convert\nfrom . import schedules"),
        (
            "modeling_ecg_jepa",
            "def f():\n    try:\n        import dataset_scripts\n    except ImportError:\n        raise",
        ),
    ],
)
def test_an_import_of_a_lower_layer_is_allowed(package, source):
    assert faults_of_layering(source, package) == []


@pytest.mark.parametrize(
    "source",
    [
        "from . import cropa",
        "from .tools.convert import convert",
        "from modeling_ecg_jepa.cropa import attend",
        "import pandas as pd",
        "def f():\n    import wfdb",
        '"""Use it like this:\n\n    from .cropa import attend\n"""',
    ],
)
def test_what_remote_code_cannot_load_is_seen(source, tmp_path):
    (tmp_path / "modeling.py").write_text(source)
    (tmp_path / "cropa.py").touch()
    assert len(faults_of_travelling(tmp_path / "modeling.py")) == 1
