"""Turns' events as OpenAI's bytes."""
