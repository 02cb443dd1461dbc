"""Where a turn's tokens come from: a Ray cluster, an engine in this process, or a script."""
