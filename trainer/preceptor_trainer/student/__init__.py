"""The shipped student, and the script that made it."""

from pathlib import Path

STUDENT_DIR = Path(__file__).parent / "model"
"""Folder of the shipped student: weights, config and tokenizer in Hugging Face form."""
