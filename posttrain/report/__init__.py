"""The report of a run: one HTML file that loads nothing, read from the run folder alone.

`read_report(folder)` is everything the page shows as plain JSON, `as_page(report)` the page, and `write_report(folder)`
puts it beside `run.json`, again and again while the run goes.
"""

from .reading import read_report
from .writing import write_report

__all__ = ["read_report", "write_report"]
