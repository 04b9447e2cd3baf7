"""What a pretrained encoder has to beat: simple statistics of each lead, and a network trained on the labels alone."""

import numpy as np

from .probe_records import ProbeRecords

#: What `lead_statistics` gives of each lead, in this order.
STATISTICS = ("standard deviation", "minimum", "maximum", "mean absolute slope")


def lead_statistics(records: ProbeRecords) -> np.ndarray:
    """(records, leads x 4) float32: of each lead of the model's input its standard deviation, minimum and maximum in
    mV and its mean absolute slope in mV/s; NaN where the lead is missing."""
    sampling_rate = records.windows.extractor.sampling_rate
    parts = []
    for places in np.array_split(np.arange(len(records.ids)), 1 + len(records.ids) // 256):
        batch = records.windows.__getitems__(places)
        signal = batch["input_values"].numpy()
        slope = np.abs(np.diff(signal, axis=-1)).mean(-1) * sampling_rate
        of_lead = np.stack([signal.std(-1), signal.min(-1), signal.max(-1), slope], axis=-1)
        of_lead[~batch["lead_mask"].numpy()] = np.nan
        parts.append(of_lead.reshape(len(places), -1))
    return np.concatenate(parts)
