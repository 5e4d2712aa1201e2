"""Exit statuses of `ma-agiqa`, the same for every command."""

OK = 0
SOME_FAILED = 1
"""Some inputs failed, or a check found problems; the results name each."""
USAGE = 2
"""The request could not be carried out: wrong option, model, data set or output."""
THRESHOLD_MISSED = 3
INTERRUPTED = 130
"""Ctrl-C: 128 + SIGINT, as a shell reports it."""
BROKEN_PIPE = 141
"""The reader of stdout went away: 128 + SIGPIPE."""
