"""Tables of the database; `questions.py` has the base class and the tables of answers."""
