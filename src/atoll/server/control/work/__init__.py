"""Work that outlives its caller: tasks, what is under way with a sandbox, tries until it is done, times."""
