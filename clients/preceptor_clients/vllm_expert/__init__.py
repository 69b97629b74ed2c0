"""vLLM as an expert: a sidecar in vLLM's own environment, with the light SDK beside it.

`config.py` is its options; `engine.py` touches vLLM, which is imported when an engine starts, and
`worker.py` runs inside its workers; `flat.py` turns vLLM's flat log-probs into arrays, once;
`version_gate.py` keeps weights still while anybody computes; `service.py` puts them together:
`logprobs`, `generate` and `weights`.

    preceptor serve preceptor_clients.vllm_expert.service:VLLMExpert --option model=FOLDER
"""
