"""The report: one page to look through pictures, their labels, and how good the answers are."""

from clipcls.report.page import About, Figure, Item, Page, Probe, Truth, about_head, about_run
from clipcls.report.thumbnails import thumbnails
from clipcls.report.writing import check_page, expected_size, link, render, write

__all__ = [
    "About",
    "Figure",
    "Item",
    "Page",
    "Probe",
    "Truth",
    "about_head",
    "about_run",
    "check_page",
    "expected_size",
    "link",
    "render",
    "thumbnails",
    "write",
]
