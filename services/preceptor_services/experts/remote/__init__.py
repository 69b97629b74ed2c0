"""Servers of other people's making as experts: what they say, in the words of our contract."""
