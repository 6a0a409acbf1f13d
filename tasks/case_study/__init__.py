"""The case study: a zero-shot experiment, heads under several losses on several training sets, tests, verdicts, tables, figures."""
