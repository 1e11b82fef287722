"""Show and store runs: the live status line, rendered answers, run files, redaction."""
