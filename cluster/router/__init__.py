"""Which replica a turn goes to: a pure pinning policy and the Ray Serve router that applies it."""
