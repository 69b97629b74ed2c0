"""Drawing responses: the seam (`sampler.py`) and the sampler in the trainer's own process."""
