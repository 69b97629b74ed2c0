"""A language model as a judge: a feedback source over any OpenAI-compatible server."""
