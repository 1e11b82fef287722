"""What people see and keep of a run: the live line, rendered answers, run files, redaction."""
