"""Quality of a recording as columns: what a person, or a filter, should know before using it."""

from typing import Any

import datasets
import numpy as np

from .records import EcgRecord

_List = getattr(datasets, "List", datasets.Sequence)

QUALITY_FEATURES = {
    "missing_leads": _List(datasets.Value("string")),
}


def quality_columns(record: EcgRecord) -> dict[str, Any]:
    """The quality columns of a record at its own rate."""
    live = np.nan_to_num(np.ptp(record.signal, axis=1)) > 0
    names = [lead for lead, is_live in zip(record.lead_names, live, strict=True) if not is_live]
    return {"missing_leads": names}
