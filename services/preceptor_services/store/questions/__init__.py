"""Queries about tickets, questions and their answers, and jobs."""
