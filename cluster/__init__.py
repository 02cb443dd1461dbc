"""What runs on the GPUs and on Ray: tokenizer, model, engine, replica, router. Never imports services."""
