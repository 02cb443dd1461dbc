"""Continuous batching over paged KV: sequences, block manager, scheduler, sampler, runner, engine."""
