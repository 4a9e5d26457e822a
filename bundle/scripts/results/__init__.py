"""What inference leaves behind: a folder per run, tables, sessions in copick projects."""
