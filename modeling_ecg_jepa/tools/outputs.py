"""Files and folders that come into being whole or not at all, for the tools: see `dataset_scripts.outputs`."""

from dataset_scripts.outputs import flush, whole_file, whole_folder

__all__ = ["flush", "whole_file", "whole_folder"]
