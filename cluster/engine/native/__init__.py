"""A step in one call of C, for bfloat16 on CPUs that multiply it: no overhead per operation, no gathered cache.

``step.c`` and its headers compute, ``library`` calls them, ``weights`` lays a model's weights out for them, ``runner``
is the engine's ``Runner``. Where the extension or the CPU's instructions are missing, the torch runner computes the
same.
"""
