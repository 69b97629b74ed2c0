"""Recipes: functions that return a whole `RunConfig`.

A run is a recipe; copy one to make another.
"""
