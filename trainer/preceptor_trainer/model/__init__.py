"""The student as tensors: batches, forward pass, what objectives consume, credit.

Dimensions: B rows, T response positions, K entries of an expert, C candidates, V vocabulary.
"""
