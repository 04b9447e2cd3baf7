"""Who goes where: deterministic splits that keep a patient's records together, and manifests of them."""

import hashlib

#: The names of all splits, in their order.
SPLITS = ("train", "validation", "test")

#: Changing this key changes every split by hash.
_KEY = b"ecg-jepa split 1"


def split_by_hash(patient: str, validation: float = 0.1, test: float = 0.1) -> str:
    """The split of a patient: the same on every machine, whatever other patients there are.

    Args:
        patient: an id; of the record where the patient is unknown.
        validation, test: the shares of these splits.
    """
    digest = hashlib.blake2b(patient.encode(), key=_KEY, digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return "test" if place < test else "validation" if place < test + validation else "train"
