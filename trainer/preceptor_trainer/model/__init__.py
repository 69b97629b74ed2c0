"""The student as tensors: batches, the forward pass, the statistics that objectives consume, credit.

Dimensions: B rows, T response positions, K entries of an expert, C candidates, V vocabulary.
"""
