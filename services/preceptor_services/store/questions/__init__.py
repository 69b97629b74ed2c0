"""Queries about the way of an answer: tickets, questions and their answers, jobs."""
