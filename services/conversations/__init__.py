"""Conversations and turn records: values, key map, and the stores that keep them."""
