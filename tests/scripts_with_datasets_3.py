"""Do the corpus files still work as loading scripts, with `datasets` 3.6? Run by hand: it makes an environment first.

    python tests/scripts_with_datasets_3.py [--python PYTHON-OF-A-READY-ENVIRONMENT]

`datasets.load_dataset("dataset_scripts/NAME.py", data_dir=..., trust_remote_code=True)` there must give the same rows
as `load_ecg_dataset` in this environment, of which each row is compared by its hash.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "tests" / "fixtures" / "records" / "ptb-xl"

#: Corpus -> options. The small folders that `make_corpora` writes hold all of them.
CORPORA = {
    "wfdb_folder": {"table": "labels.csv", "label_column": "diagnosis", "sampling_rate": 250},
    "ptb_xl": {"label_set": "superdiagnostic"},
    "code15": {},
}

AS_SCRIPTS = """
import json, sys
import datasets
from tests.scripts_with_datasets_3 import CORPORA, ROOT, hashes
assert datasets.__version__.startswith("3.6."), datasets.__version__
folder = sys.argv[1]
found = {}
for name, options in CORPORA.items():
    script = str(ROOT / "dataset_scripts" / f"{name}.py")
    dataset = datasets.load_dataset(script, data_dir=f"{folder}/{name}", trust_remote_code=True, **options)
    found[name] = hashes(dataset)
print(json.dumps(found))
"""


def make_corpora(folder: Path) -> None:
    """A folder a corpus: two records of PTB-XL with a user's table and with PTB-XL's, and one exam of CODE-15%."""
    import h5py
    import numpy as np

    names = sorted(path.stem for path in RECORDS.glob("*.hea"))
    for corpus, place in (("wfdb_folder", "."), ("ptb_xl", "records500/00000")):
        target = folder / corpus / place
        target.mkdir(parents=True)
        for name in names:
            for suffix in (".hea", ".dat"):
                (target / (name + suffix)).write_bytes((RECORDS / (name + suffix)).read_bytes())
    lines = ["record,diagnosis", *(f"{name},{'AF;MI' if place else ''}" for place, name in enumerate(names))]
    (folder / "wfdb_folder" / "labels.csv").write_text("\n".join(lines) + "\n")
    header = "ecg_id,patient_id,age,sex,report,scp_codes,strat_fold,filename_lr,filename_hr"
    rows = [
        f"""{place},{place}.0,50.0,1,sinus,"{{'NORM': 100.0, 'SR': 0.0}}",{8 + place},none,records500/00000/{name}"""
        for place, name in enumerate(names, start=1)
    ]
    (folder / "ptb_xl" / "ptbxl_database.csv").write_text("\n".join([header, *rows]) + "\n")
    (folder / "code15").mkdir()
    header = (
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file"
    )
    row = "7,50,True,49.5,False,True,False,False,False,True,9,,,False,exams_part0.hdf5"
    (folder / "code15" / "exams.csv").write_text(f"{header}\n{row}\n")
    with h5py.File(folder / "code15" / "exams_part0.hdf5", "w") as file:
        tracings = np.random.default_rng(0).normal(size=(2, 4096, 12)).astype("f4")
        file["exam_id"], file["tracings"] = [7, 0], tracings * [[[1]], [[0]]]


def hashes(dataset) -> dict[str, list[str]]:
    """Split -> a hash of every row."""
    rows = {split: [json.dumps(row, sort_keys=True) for row in dataset[split]] for split in dataset}
    return {split: [hashlib.sha256(row.encode()).hexdigest() for row in texts] for split, texts in rows.items()}


def make_environment(folder: Path) -> Path:
    """The python of a new environment with datasets 3.6 and this package's other dependencies."""
    venv.create(folder, with_pip=True)
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = [text for text in dependencies if not re.match(r"(torch|datasets)\b", text)]
    python = folder / "bin" / "python"
    # torch first and by its exact version, as in constraints.txt: that picks the build.
    torch = re.search(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[0]
    for packages in ([torch], [*wanted, "datasets==3.6.*"]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--python", type=Path, help="an environment that has datasets 3.6 already")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        os.environ["HF_HOME"] = str(place / "huggingface")
        make_corpora(place / "corpora")
        python = given.python or make_environment(place / "environment")
        run = subprocess.run(
            [python, "-c", AS_SCRIPTS, str(place / "corpora")],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        as_scripts = json.loads(run.stdout.splitlines()[-1])
        sys.path.insert(0, str(ROOT))
        from dataset_scripts import load_ecg_dataset

        for name, choices in CORPORA.items():
            ours = hashes(
                load_ecg_dataset(name, data_dir=place / "corpora" / name, cache_dir=place / "cache", **choices)
            )
            rows = sum(map(len, ours.values()))
            if not rows or ours != as_scripts[name]:
                sys.exit(f"{name}: as a script {as_scripts[name]}, here {ours}")
            print(f"{name}: {rows} rows in {', '.join(ours)}, the same as a script of datasets 3.6")


if __name__ == "__main__":
    main()
