"""The output of inference: a folder per run, tables, sessions in copick projects."""
