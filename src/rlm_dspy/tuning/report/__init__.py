"""Reports of evaluations and optimizations: figures, tables for terminals, Markdown, and pages for browsers."""
