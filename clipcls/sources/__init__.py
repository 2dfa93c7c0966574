"""Where images come from: files, folders, glob patterns, lists, tables, WebDataset shards, on disk or far away."""

from clipcls.sources.images import ImageSource
from clipcls.sources.opening import file_ref
from clipcls.sources.selection import CAMERA_SUFFIXES, SUFFIXES

__all__ = ["CAMERA_SUFFIXES", "SUFFIXES", "ImageSource", "file_ref"]
