"""APIs that return text only: draws at a few positions become distributions."""
