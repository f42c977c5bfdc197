"""One self-contained HTML page about where memory was and why it stayed.

>>> dmi.report.report(["before.json", "peak.json", "after.json"]).save("report.html")

Made from snapshots, the JSON of a replay, recordings, or a running process. The page needs no
network. Needs the extra ``report``.
"""

from __future__ import annotations

from dmi.report._gather import report, report_of_sweep
from dmi.report._page import Report

__all__ = ["Report", "report", "report_of_sweep"]
