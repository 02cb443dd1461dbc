"""The queue of turns that nobody waits for: pointers in Redis Streams, shared fairly among tenants."""
