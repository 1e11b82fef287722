"""Reports of evaluations and optimizations: figures, tables for terminals, Markdown, and pages for browsers."""

from rlm_dspy.tuning.report.eval_page import find_run_links, report_page, runs_folder
from rlm_dspy.tuning.report.figure_tables import (
    differences,
    figure_cells,
    gain_text,
    score_bar,
    score_interval_text,
    task_cells,
)
from rlm_dspy.tuning.report.figures import by_task, compare_sides, rows_by_side, side_figures
from rlm_dspy.tuning.report.optimize_page import outcome_page
from rlm_dspy.tuning.report.outcome import (
    candidate_tree,
    failure_lines,
    instruction_diff,
    outcome_report,
    report_markdown,
)
from rlm_dspy.tuning.report.page_parts import package_versions, time_stamp

__all__ = [
    "by_task",
    "candidate_tree",
    "compare_sides",
    "differences",
    "failure_lines",
    "figure_cells",
    "find_run_links",
    "gain_text",
    "instruction_diff",
    "outcome_page",
    "outcome_report",
    "package_versions",
    "report_markdown",
    "report_page",
    "rows_by_side",
    "runs_folder",
    "score_bar",
    "score_interval_text",
    "side_figures",
    "task_cells",
    "time_stamp",
]
