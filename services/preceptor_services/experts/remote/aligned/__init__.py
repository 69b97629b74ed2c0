"""Teachers with another tokenizer, aligned with the student's tokens by bytes."""
