"""What each forked command finds done: the trainer is imported, the recipe's problems are made."""

import preceptor_trainer.commands.run  # noqa: F401
from preceptor_trainer.recipes.quickstart import quickstart

quickstart(name="preloaded")
