"""Small records in the layout of PhysioNet's challenges, made by the tests themselves."""

from pathlib import Path

import numpy as np

from modeling_ecg_jepa.leads_ecg_jepa import STANDARD_12_LEADS


def challenge_record(folder: Path, name: str, dx: str, samples: int = 500, sampling_rate: int = 500) -> Path:
    """The header of a record of noise that obeys the limb equations; `dx` stands after `Dx:`."""
    rng = np.random.default_rng(sum(name.encode()))
    first, second, *chest = rng.integers(-500, 500, size=(8, samples)) * 2
    limbs = [first, second, second - first, -(first + second) // 2, first - second // 2, second - first // 2]
    counts = np.array([*limbs, *chest], dtype="<i2")
    lines = [f"{name} 12 {sampling_rate} {samples}"]
    for lead, row in zip(STANDARD_12_LEADS, counts, strict=True):
        checksum = int(row.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}.mat 16+24 1000/mV 16 0 {row[0]} {checksum} 0 {lead}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_text("\n".join([*lines, "#Age: 60", "#Sex: Female", f"#Dx: {dx}", ""]))
    (folder / f"{name}.mat").write_bytes(bytes(24) + counts.T.tobytes())
    return folder / f"{name}.hea"
