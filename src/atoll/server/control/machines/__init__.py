"""One machine, whoever wants it: told who it is, asked whether it answers, ended with all that it had."""
