"""From result lines to tables, one way.

lines (which stand in a table) -> numbers (a sheet: the table on one data set) -> pivot (cells in
lines and columns) -> render and document (Markdown, LaTeX, CSV), figures, and tasks/report (HTML).
A further column is a value that a task's module puts into its summary, and its header among the
`columns` of the table's file: whatever shows the table then has it.
"""
