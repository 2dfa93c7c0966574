"""Where images come from: files, folders, glob patterns, a list on stdin; always in a stable order."""

from clipcls.sources.local import CAMERA_SUFFIXES, SUFFIXES, ImageSource, file_ref

__all__ = ["CAMERA_SUFFIXES", "SUFFIXES", "ImageSource", "file_ref"]
