"""The report of a finished run: a page, two pictures, and a few lines in the terminal.

    write_report(run_dir)                            # report.html and figures/*.png
    console.print(terminal_summary(summary), soft_wrap=True)

Data flows one way: `run_files` reads and checks the run's folder; `wording`, `charts` and `tokens`
turn it into words and geometry (`axis` has every scale); `page` fills the template; `figures` draws
with matplotlib, by `drawing`. Other reports take `axis`, `charts` and `drawing` from here.
"""

from preceptor_trainer.report.page import REPORT_FILE, write_report
from preceptor_trainer.report.terminal import terminal_summary

__all__ = ["REPORT_FILE", "terminal_summary", "write_report"]
