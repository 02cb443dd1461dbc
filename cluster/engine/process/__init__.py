"""The engine in a process of its own, behind the same ``EngineClient`` as the one in a thread."""
