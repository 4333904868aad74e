"""``report.html``: one self-contained page of a run, or of the runs of several seeds, and what their memory holds."""

from learner.report.page import SeedRun, write_report

__all__ = ["SeedRun", "write_report"]
