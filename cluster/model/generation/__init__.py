"""The library shell: ChatGLM3 as a transformers model with ``chat``, ``stream_chat`` and ``generate``.

It runs the blocks that serve. Only here may transformers and accelerate be imported; nothing that serves imports this.
"""
