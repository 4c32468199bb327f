"""The page a run ends with. Reads files only; never imports torch."""

from multivi_nf.report.page import write_report

__all__ = ["write_report"]
