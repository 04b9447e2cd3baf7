"""The columns of `ecg-jepa embed`, in words: said in its help and kept in the metadata of every file it writes."""

COLUMNS = {
    "record": "path of the record without suffix, relative to the folder given; of a single record its name, of a "
    "prepared row its record_id",
    "window": "0, 1, ... within the record",
    "start_s": "where in the record the window starts, in seconds",
    "embedding": "the model's vector for the window, list of float32",
    "lead_names": "ECG leads of the record, in the file's order; `quality` says which of the model's were missing",
    "sampling_rate": "of the record as it was read, in Hz",
    "quality": "what is worth knowing of the record and the window, in words; empty where nothing is",
    "sha256": "SHA-256 over the bytes of the record's header and then its signal files; of a prepared row over its "
    "leads, rate and signal",
    "labels": "names of the record's labels, where a prepared corpus tells them; else null",
    "patient_id": "of a prepared corpus, where it is known; else null",
    "split": "train, validation or test, of a prepared corpus; else null",
}
