"""Drawing responses: the interface (`sampler.py`) and the sampler in the trainer's process."""
