"""The lead table: canonical names, order, aliases, and which limb leads follow from two others."""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from .errors_ecg_jepa import EcgJepaInputError

#: What the rows of a grid are: the leads of an ECG, or the channels of any other signal (EEG, EMG, ...), of which only
#: the user knows the names and the size.
Modality = Literal["ecg", "other"]

#: The standard 12 leads in the order that recorders write.
STANDARD_12_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

#: The 8 independent leads that ECG-JEPA sees (arXiv 2410.08559): the other four follow from I and II.
ECG_JEPA_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")

#: Further leads that records carry: right-sided, posterior, Frank's orthogonal leads.
OTHER_LEADS = ("V3R", "V4R", "V5R", "V6R", "V7", "V8", "V9", "VX", "VY", "VZ")

KNOWN_LEADS = STANDARD_12_LEADS + OTHER_LEADS

_OTHER_NAMES = {
    "I": ("MLI", "DI", "D1", "L1"),
    "II": ("MLII", "DII", "D2", "L2"),
    "III": ("MLIII", "DIII", "D3", "L3"),
    **{f"V{place}": (f"C{place}", f"MV{place}") for place in range(1, 7)},
    **{axis: (axis[1:],) for axis in ("VX", "VY", "VZ")},
}


def _key(name: str) -> str:
    """Spelling without what differs between recorders: case, separators, a leading "Lead", "ECG" or "MDC_ECG_LEAD"."""
    key = re.sub(r"[\s_.:-]", "", name.upper())  # not a comma: "I,II" are two leads, and neither is III
    for prefix in ("MDCECGLEAD", "LEAD", "ECG"):
        if key.startswith(prefix) and key != prefix:
            key = key[len(prefix) :]
    return key


_CANONICAL: Mapping[str, str] = MappingProxyType(
    {_key(name): name for name in KNOWN_LEADS}
    | {alias: name for name, aliases in _OTHER_NAMES.items() for alias in aliases}
)

# The six limb leads look at one plane: each is (a, b) in a * I + b * II (Einthoven, Goldberger).
_LIMB_PLANE = {
    "I": (1.0, 0.0),
    "II": (0.0, 1.0),
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}


def _as_sum_of(lead: str, first: str, second: str) -> Mapping[str, float]:
    """Weights of two limb leads that sum to a third: Cramer's rule in the limb plane."""
    (a, b), (c, d), (x, y) = (_LIMB_PLANE[name] for name in (first, second, lead))
    area = a * d - b * c
    return MappingProxyType({first: (x * d - y * c) / area, second: (a * y - b * x) / area})


#: Each limb lead as a sum of two others, {lead: [{lead: weight, lead: weight}, ...]}: any two determine it, and the
#: first rule whose leads are there is used (I, II, III before the augmented leads).
LIMB_RULES: Mapping[str, tuple[Mapping[str, float], ...]] = MappingProxyType(
    {
        lead: tuple(_as_sum_of(lead, *pair) for pair in itertools.combinations(_LIMB_PLANE, 2) if lead not in pair)
        for lead in _LIMB_PLANE
    }
)


def canonical_lead(name: str) -> str:
    """The canonical name of a lead: "AVR", "avr" -> "aVR"; "MLII", "DII" -> "II"; "vx" -> "VX".

    Raises:
        EcgJepaInputError: the name is not that of a known ECG lead.
    """
    canonical = _CANONICAL.get(_key(name)) if isinstance(name, str) else None
    if canonical is None:
        near = difflib.get_close_matches(_key(str(name)), _CANONICAL, n=1)
        hint = f" Did you mean {_CANONICAL[near[0]]!r}?" if near else ""
        hint = " Give several names one by one, not joined by a comma." if "," in str(name) else hint
        raise EcgJepaInputError(f"Unknown lead name {name!r}.{hint} Known leads: {', '.join(KNOWN_LEADS)}.")
    return canonical


def canonical_leads(names: Sequence[str], modality: Modality = "ecg") -> list[str]:
    """`canonical_lead` of each name, in the order given; the names of another signal's channels stay as they are.

    Raises:
        EcgJepaInputError: an unknown name, or two names of the same lead.
    """
    canonical = [canonical_lead(name) if modality == "ecg" else _channel(name) for name in names]
    for place, lead in enumerate(canonical):
        if lead in canonical[:place]:
            raise EcgJepaInputError(
                f"Lead {lead} is named twice ({names[canonical.index(lead)]!r} and {names[place]!r}); "
                "give each lead once."
            )
    return canonical


def _channel(name: str) -> str:
    if not isinstance(name, str) or not name.strip():
        raise EcgJepaInputError(f"A channel cannot be named {name!r}; its name is a word, e.g. 'Fp1'.")
    return str(name)
