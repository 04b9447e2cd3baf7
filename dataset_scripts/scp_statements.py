"""PTB-XL's 71 SCP-ECG statements, and the six label sets that the benchmark literature makes of them.

The table is that of `scp_statements.csv` in PTB-XL 1.0.3 (Wagner et al., Sci Data 7:154, 2020; CC BY 4.0). The sets are
those of Strodthoff et al., "Deep Learning for ECG Analysis: Benchmarks and Insights from PTB-XL", IEEE J Biomed Health
Inform 25:1519 (2021), and their classes stand in that code's order: sorted, as scikit-learn's MultiLabelBinarizer does.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass

from modeling_ecg_jepa.errors_ecg_jepa import EcgJepaConfigError, EcgJepaRecordError


@dataclass(frozen=True)
class Statement:
    """A statement: `kinds` has D for diagnostic, F for form, R for rhythm; without D the classes are empty."""

    code: str
    kinds: str
    diagnostic_class: str
    diagnostic_subclass: str
    description: str


# code,kinds,class,subclass,description
_TABLE = """
NDT,DF,STTC,STTC,non-diagnostic T abnormalities
NST_,DF,STTC,NST_,non-specific ST changes
DIG,DF,STTC,STTC,digitalis-effect
LNGQT,DF,STTC,STTC,long QT-interval
NORM,D,NORM,NORM,normal ECG
IMI,D,MI,IMI,inferior myocardial infarction
ASMI,D,MI,AMI,anteroseptal myocardial infarction
LVH,D,HYP,LVH,left ventricular hypertrophy
LAFB,D,CD,LAFB/LPFB,left anterior fascicular block
ISC_,D,STTC,ISC_,non-specific ischemic
IRBBB,D,CD,IRBBB,incomplete right bundle branch block
1AVB,D,CD,_AVB,first degree AV block
IVCD,D,CD,IVCD,non-specific intraventricular conduction disturbance (block)
ISCAL,D,STTC,ISCA,ischemic in anterolateral leads
CRBBB,D,CD,CRBBB,complete right bundle branch block
CLBBB,D,CD,CLBBB,complete left bundle branch block
ILMI,D,MI,IMI,inferolateral myocardial infarction
LAO/LAE,D,HYP,LAO/LAE,left atrial overload/enlargement
AMI,D,MI,AMI,anterior myocardial infarction
ALMI,D,MI,AMI,anterolateral myocardial infarction
ISCIN,D,STTC,ISCI,ischemic in inferior leads
INJAS,D,MI,AMI,subendocardial injury in anteroseptal leads
LMI,D,MI,LMI,lateral myocardial infarction
ISCIL,D,STTC,ISCI,ischemic in inferolateral leads
LPFB,D,CD,LAFB/LPFB,left posterior fascicular block
ISCAS,D,STTC,ISCA,ischemic in anteroseptal leads
INJAL,D,MI,AMI,subendocardial injury in anterolateral leads
ISCLA,D,STTC,ISCA,ischemic in lateral leads
RVH,D,HYP,RVH,right ventricular hypertrophy
ANEUR,D,STTC,STTC,ST-T changes compatible with ventricular aneurysm
RAO/RAE,D,HYP,RAO/RAE,right atrial overload/enlargement
EL,D,STTC,STTC,electrolytic disturbance or drug (former EDIS)
WPW,D,CD,WPW,Wolf-Parkinson-White syndrome
ILBBB,D,CD,ILBBB,incomplete left bundle branch block
IPLMI,D,MI,IMI,inferoposterolateral myocardial infarction
ISCAN,D,STTC,ISCA,ischemic in anterior leads
IPMI,D,MI,IMI,inferoposterior myocardial infarction
SEHYP,D,HYP,SEHYP,septal hypertrophy
INJIN,D,MI,IMI,subendocardial injury in inferior leads
INJLA,D,MI,AMI,subendocardial injury in lateral leads
PMI,D,MI,PMI,posterior myocardial infarction
3AVB,D,CD,_AVB,third degree AV block
INJIL,D,MI,IMI,subendocardial injury in inferolateral leads
2AVB,D,CD,_AVB,second degree AV block
ABQRS,F,,,abnormal QRS
PVC,F,,,ventricular premature complex
STD_,F,,,non-specific ST depression
VCLVH,F,,,voltage criteria (QRS) for left ventricular hypertrophy
QWAVE,F,,,Q waves present
LOWT,F,,,low amplitude T-waves
NT_,F,,,non-specific T-wave changes
PAC,F,,,atrial premature complex
LPR,F,,,prolonged PR interval
INVT,F,,,inverted T-waves
LVOLT,F,,,low QRS voltages in the frontal and horizontal leads
HVOLT,F,,,high QRS voltage
TAB_,F,,,T-wave abnormality
STE_,F,,,non-specific ST elevation
PRC(S),F,,,premature complex(es)
SR,R,,,sinus rhythm
AFIB,R,,,atrial fibrillation
STACH,R,,,sinus tachycardia
SARRH,R,,,sinus arrhythmia
SBRAD,R,,,sinus bradycardia
PACE,R,,,normal functioning artificial pacemaker
SVARR,R,,,supraventricular arrhythmia
BIGU,R,,,bigeminal pattern (unknown origin, SV or Ventricular)
AFLT,R,,,atrial flutter
SVTAC,R,,,supraventricular tachycardia
PSVT,R,,,paroxysmal supraventricular tachycardia
TRIGU,R,,,trigeminal pattern (unknown origin, SV or Ventricular)
"""

#: Code -> statement.
STATEMENTS = {line.partition(",")[0]: Statement(*line.split(",", 4)) for line in _TABLE.strip().splitlines()}

#: Label set -> code -> class.
CLASS_OF = {
    "all": {code: code for code in STATEMENTS},
    "diagnostic": {code: code for code, statement in STATEMENTS.items() if "D" in statement.kinds},
    "subdiagnostic": {code: s.diagnostic_subclass for code, s in STATEMENTS.items() if "D" in s.kinds},
    "superdiagnostic": {code: s.diagnostic_class for code, s in STATEMENTS.items() if "D" in s.kinds},
    "form": {code: code for code, statement in STATEMENTS.items() if "F" in statement.kinds},
    "rhythm": {code: code for code, statement in STATEMENTS.items() if "R" in statement.kinds},
}

#: Label set -> its classes, in their order: 71, 44, 23, 5, 19 and 12.
LABEL_SETS = {name: tuple(sorted(set(classes.values()))) for name, classes in CLASS_OF.items()}

#: PTB-XL's longest has 149 characters; the parser below is not for texts of any length.
_LONGEST_TEXT = 4096


def labels_of(codes: Iterable[str], label_set: str) -> tuple[str, ...]:
    """The classes of a label set that a record's codes stand for, each once, in the set's order."""
    classes = CLASS_OF[label_set]
    return tuple(sorted({classes[code] for code in codes if code in classes}))


def parse_scp_codes(text: str, where: str) -> dict[str, float]:
    """Code -> likelihood in percent, of a field like "{'NORM': 100.0, 'SR': 0.0}"; 0 means unknown.

    Raises:
        EcgJepaRecordError: it is no such field, or names an unknown code; `where` says where it stands.
    """
    try:
        codes = ast.literal_eval(text.strip()) if len(text) <= _LONGEST_TEXT else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        codes = None
    if not isinstance(codes, dict) or not all(_is_likelihood(value) for value in codes.values()):
        raise EcgJepaRecordError(
            "statements not readable",
            f"{where}: scp_codes {text[:80]!r} is not of the form {{'NORM': 100.0, 'SR': 0.0}}, likelihoods 0 to 100.",
        )
    unknown = [code for code in codes if code not in STATEMENTS]
    if unknown:
        raise EcgJepaRecordError(
            "unknown statement",
            f"{where}: {unknown[0]!r} is none of the {len(STATEMENTS)} codes of scp_statements.csv.",
        )
    return codes


def _is_likelihood(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def likely(codes: dict[str, float], min_likelihood: float | None) -> list[str]:
    """The codes that count: all of them for None, else those of at least this likelihood; unknown (0) is not likely."""
    return [code for code, likelihood in codes.items() if min_likelihood is None or likelihood >= min_likelihood]


def check_min_likelihood(value: float | None) -> None:
    """Raises:
    EcgJepaConfigError: not None, nor more than 0 and at most 100.
    """
    if value is not None and not 0 < value <= 100:
        raise EcgJepaConfigError(
            f"min_likelihood={value!r} must be more than 0 and at most 100 (percent), or None: every code counts, also "
            "those of unknown likelihood, as in the benchmark literature."
        )
