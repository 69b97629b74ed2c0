"""An expert as a vLLM server, for trainers that ask one for `prompt_logprobs`."""
