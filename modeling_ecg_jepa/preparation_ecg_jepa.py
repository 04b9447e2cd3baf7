"""From the piece of a record that is used to the model's leads: gaps, dead leads, derived leads, plausible size."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from .errors_ecg_jepa import EcgJepaInputError
from .input_ecg_jepa import LARGEST_VALUE, EcgInput
from .leads_ecg_jepa import LIMB_RULES
from .quality_ecg_jepa import EcgFinding, signal_findings
from .units_ecg_jepa import MILLIVOLTS, implausible_amplitude, median_deviation

#: Longest gap, in seconds, that `nan_policy="interpolate"` fills.
LONGEST_GAP_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Piece:
    """The samples start .. start + length of a record: all of it, its crop, or one of its windows; an output row."""

    record: EcgInput
    start: int
    length: int


@dataclasses.dataclass(frozen=True)
class NativePieces:
    """Pieces of one length, rate and lead set, in millivolts at their own rate.

    Args:
        leads (`list[str]`): the rows that serve the model: its own leads and the limb leads.
        signal (`np.ndarray`): (pieces, rows, samples) float64, zero where a row is not live.
        live (`np.ndarray`): (pieces, rows) bool: the row varies over time.
        empty (`np.ndarray`): (pieces, rows) bool: the row has no finite value.
        interpolated (`np.ndarray`): (pieces, rows) int: samples filled in.
    """

    leads: list[str]
    signal: np.ndarray
    live: np.ndarray
    empty: np.ndarray
    interpolated: np.ndarray


def stack_pieces(group: Sequence[Piece], model_leads: Sequence[str], nan_policy: str) -> NativePieces:
    """Copy pieces of one length, rate and lead set out of their records, zero dead rows, fill gaps if allowed.

    Raises:
        EcgJepaInputError: a live row has values that are NaN or infinite, and the policy does not fill them.
    """
    given = group[0].record.leads
    rows = [row for row, lead in enumerate(given) if lead in model_leads or lead in LIMB_RULES]
    signal = np.empty((len(group), len(rows), group[0].length))
    for samples, piece in zip(signal, group, strict=True):
        used = piece.record.signal[:, piece.start : piece.start + piece.length]
        samples[:] = used if len(rows) == len(given) else used[rows]
        if piece.record.unit != "mV":
            with np.errstate(over="ignore"):  # what overflows is not finite and is dealt with as such
                samples *= MILLIVOLTS[piece.record.unit]
    lowest, highest = signal.min(axis=-1), signal.max(axis=-1)
    finite = (np.abs(lowest) < LARGEST_VALUE) & (np.abs(highest) < LARGEST_VALUE)  # False for NaN
    native = NativePieces(
        leads=[given[row] for row in rows],
        signal=signal,
        live=finite & (lowest < highest),
        empty=np.zeros(finite.shape, dtype=bool),
        interpolated=np.zeros(finite.shape, dtype=int),
    )
    for place, row in zip(*np.nonzero(~finite), strict=True):
        _settle_row(native, place, row, group[place], nan_policy)
    signal[~native.live] = 0.0
    return native


def _settle_row(native: NativePieces, place: int, row: int, piece: Piece, nan_policy: str) -> None:
    """Tell whether a row with values that are not finite is live, and fill its gaps if it is."""
    samples = native.signal[place, row]
    bad = ~(np.abs(samples) < LARGEST_VALUE)
    values = samples[~bad]
    native.empty[place, row] = not values.size
    native.live[place, row] = values.size and values.min() < values.max()
    if native.live[place, row]:
        _check_gaps(bad, piece, native.leads[row], nan_policy)
        places = np.arange(len(samples))
        samples[bad] = np.interp(places[bad], places[~bad], values)
        native.interpolated[place, row] = bad.sum()


def _check_gaps(bad: np.ndarray, piece: Piece, lead: str, nan_policy: str) -> None:
    rate = piece.record.sampling_rate
    start, length = longest_gap(bad)
    if nan_policy == "interpolate" and length <= LONGEST_GAP_SECONDS * rate + 1e-6:
        return
    remedy = f'Pass nan_policy="interpolate" to fill gaps of up to {LONGEST_GAP_SECONDS:g} s.'
    if nan_policy == "interpolate":
        remedy = (
            f'nan_policy="interpolate" fills gaps of up to {LONGEST_GAP_SECONDS:g} s only: cut the record there, or '
            f"leave {lead} out of the signal and its names."
        )
    raise EcgJepaInputError(
        f"{piece.record.where}Lead {lead} has {bad.sum()} values that are NaN or infinite; the longest gap lasts "
        f"{length / rate:.3f} s and begins at {(piece.start + start) / rate:.3f} s. {remedy}"
    )


def longest_gap(bad: np.ndarray) -> tuple[int, int]:
    """Start and length of the longest run of True in a (samples,) array that has one."""
    edges = np.flatnonzero(np.diff(bad, prepend=False, append=False))
    starts, lengths = edges[::2], np.diff(edges)[::2]
    longest = lengths.argmax()
    return int(starts[longest]), int(lengths[longest])


def pick_leads(native: NativePieces, model_leads: Sequence[str], derive: bool) -> tuple[np.ndarray, np.ndarray]:
    """The model's leads out of the rows there are, limb leads derived where they are missing or dead.

    Returns:
        values (pieces, leads, samples), zero where a lead is unusable, and the (pieces, leads) mask of usable ones.
    """
    place = {lead: row for row, lead in enumerate(native.leads)}
    pieces, _, samples = native.signal.shape
    values = np.zeros((pieces, len(model_leads), samples))
    mask = np.zeros((pieces, len(model_leads)), dtype=bool)
    for column, lead in enumerate(model_leads):
        if lead in place:
            values[:, column], mask[:, column] = native.signal[:, place[lead]], native.live[:, place[lead]]
        for weights in LIMB_RULES.get(lead, ()) if derive else ():
            if mask[:, column].all():
                break
            if weights.keys() <= place.keys():
                sources = [place[source] for source in weights]
                derivable = ~mask[:, column] & native.live[:, sources].all(axis=1)
                derived = np.tensordot(native.signal[derivable][:, sources], list(weights.values()), (1, 0))
                values[derivable, column] = derived
                mask[derivable, column] = np.ptp(derived, axis=-1) > 0
    return values, mask


def check_usable(group: Sequence[Piece], lead_mask: np.ndarray, model_leads: Sequence[str]) -> None:
    """Refuse records of which no piece has a usable lead.

    Raises:
        EcgJepaInputError: naming the leads that the record has and those that the model uses.
    """
    for record, rows in _rows_of_records(group):
        if not lead_mask[rows].any():
            raise EcgJepaInputError(
                f"{record.where}No usable lead: the record has {', '.join(record.leads)}, the model uses "
                f"{', '.join(model_leads)}, and each of these is missing, constant or all NaN."
            )


def check_amplitudes(group: Sequence[Piece], values: np.ndarray, lead_mask: np.ndarray) -> None:
    """Refuse ECGs whose size says that they are not in the unit they claim.

    Args:
        group (`Sequence[Piece]`): the pieces, those of a record one after the other.
        values (`np.ndarray`): (pieces, leads, samples) in mV.
        lead_mask (`np.ndarray`): (pieces, leads) bool, the leads that count.

    Raises:
        EcgJepaInputError: naming the likely unit.
    """
    for record, rows in _rows_of_records(group):
        if record.modality != "ecg":
            continue
        live = values[rows][lead_mask[rows]].astype(np.float32)
        implausible = implausible_amplitude(median_deviation(live), record.unit)
        if implausible:
            raise EcgJepaInputError(f"{record.where}{implausible}")


def _rows_of_records(group: Sequence[Piece]) -> list[tuple[EcgInput, slice]]:
    """Each record of the group with the rows of its pieces, which stand together."""
    runs, start = [], 0
    for _, run in itertools.groupby(group, key=lambda piece: piece.record.index):
        members = list(run)
        runs.append((members[0].record, slice(start, start + len(members))))
        start += len(members)
    return runs


def cut_findings(pieces: Sequence[Piece]) -> list[EcgFinding]:
    """What of each record is not used."""
    findings = []
    for record, rows in _rows_of_records(pieces):
        rate, available = record.sampling_rate, record.signal.shape[1]
        used = pieces[rows]
        first, last = used[0].start, used[-1].start + used[-1].length
        if first > 0 or last < available:
            text = f"Only {first / rate:.2f} to {last / rate:.2f} s of {available / rate:.2f} s are used."
            findings.append(EcgFinding("truncated", text, record=record.index, value=(available - last + first) / rate))
    return findings


def piece_findings(
    piece: Piece, row: int, native: NativePieces, place: int, model_leads: Sequence[str], lead_mask: np.ndarray
) -> list[EcgFinding]:
    """All that is worth knowing of one piece: its leads and its signal.

    Args:
        row (`int`): its row in the output; `place` (`int`) its place in `native`.
        lead_mask (`np.ndarray`): (leads,) bool, which of `model_leads` came out usable.
    """
    live = native.live[place]
    names = [lead for lead, is_live in zip(native.leads, live, strict=True) if is_live]
    findings = [
        *_lead_findings(native, place, model_leads, lead_mask),
        *signal_findings(native.signal[place, live], names, piece.record.sampling_rate, piece.record.modality),
    ]
    return [dataclasses.replace(finding, record=piece.record.index, window=row) for finding in findings]


def _lead_findings(
    native: NativePieces, place: int, model_leads: Sequence[str], lead_mask: np.ndarray
) -> list[EcgFinding]:
    """Which of the model's leads are missing, dead or filled in, and what became of them."""
    rows = {lead: row for row, lead in enumerate(native.leads)}
    findings = []
    for lead, usable in zip(model_leads, lead_mask, strict=True):
        row = rows.get(lead)
        outcome = "derived from two other limb leads" if usable else "masked"
        if row is None:
            findings.append(EcgFinding("missing_lead", f"{lead} is not in the record: {outcome}.", lead=lead))
        elif native.empty[place, row]:
            findings.append(EcgFinding("empty_lead", f"{lead} has no finite value: {outcome}.", lead=lead))
        elif not native.live[place, row]:
            findings.append(EcgFinding("constant_lead", f"{lead} is constant: {outcome}.", lead=lead))
    for lead, row in rows.items():
        count = int(native.interpolated[place, row])
        if count:
            text = f"{lead}: {count} values that were NaN or infinite are interpolated."
            findings.append(EcgFinding("interpolated", text, lead=lead, value=count))
    return findings
