"""A turn from request to recorded answer: prompt, generation, projection, journal, commit."""
