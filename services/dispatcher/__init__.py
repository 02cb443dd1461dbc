"""Work that nobody waits for: turns of the queue, and turns whose owner has died."""
