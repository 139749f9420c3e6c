"""Where the rows are: SQLite now; tables and statements are such that PostgreSQL takes them too."""
