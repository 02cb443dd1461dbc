"""How the next token of each row is chosen: what sequences ask for on the host, scores and draws on the device.

``weights`` and ``bans`` keep what one sequence asks for; ``columns`` gathers a step's; ``adjust``, ``draw`` and
``logprobs`` compute with tensors; ``sample`` joins these.
"""
