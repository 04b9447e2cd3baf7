"""ECG corpora as `datasets` builders with one row schema, and the readers of recordings below them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading import load_ecg_dataset

__all__ = ["load_ecg_dataset"]


def __getattr__(name: str) -> Any:
    # Reading a single record needs none of what preparing corpora needs.
    if name == "load_ecg_dataset":
        from .loading import load_ecg_dataset

        return load_ecg_dataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
