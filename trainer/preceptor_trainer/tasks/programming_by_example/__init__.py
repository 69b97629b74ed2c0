"""Programming by example: a few input/output pairs in, one Python expression out."""
