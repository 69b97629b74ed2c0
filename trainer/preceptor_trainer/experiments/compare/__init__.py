"""Comparing methods: the same student, problems, seeds, budget and services for all of them.

    preceptor compare fast --out runs/compare/fast

| file | what |
|---|---|
| `method.py` | a method (recipe, what it sees, learning rates) and the trial that a recipe gets |
| `plan.py` | a comparison as a value, and its cells |
| `budget.py` | steps, seconds or tokens, whichever a comparison gives every run |
| `services.py` | one deployment for all cells |
| `cell_trainer.py` | the loop, with probes between steps and a count of what was used |
| `cells.py` | finished cells as JSON, and whether they still belong to the plan |
| `runner.py` | runs what is missing |
| `statistics.py` | paired bootstrap over seeds and problems, Holm's correction |
| `analysis.py` | cells to numbers |
| `page.py`, `charts.py`, `tables.py` | numbers to a page, its charts and Markdown |
| `pictures.py` | gains and curves as pictures |
"""
