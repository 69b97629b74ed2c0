"""vLLM as an expert: a sidecar in vLLM's own environment, with the light SDK beside it.

`config.py` has its options. `engine.py` calls vLLM, which is imported when an engine starts;
`worker.py` runs inside vLLM's workers, and there with it `fetched_weights.py` and
`broadcast_weights.py`, for weights that a trainer sends. `flat.py` converts vLLM's flat log-probs
to arrays. `version_gate.py` prevents a change of the weights during a computation.
`weight_files.py` writes the files that vLLM loads. `service.py` combines them to `logprobs`,
`generate` and `weights`.

    preceptor serve preceptor_clients.vllm_expert.service:VLLMExpert --option model=FOLDER
"""
