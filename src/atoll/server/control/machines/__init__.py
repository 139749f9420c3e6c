"""What is done with one machine, whoever wants it: it is told who it is, asked whether it answers, ended."""
