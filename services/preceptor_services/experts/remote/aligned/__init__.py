"""Teachers with another tokenizer: their tokens beside the student's, over the same bytes."""
