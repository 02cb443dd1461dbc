"""Attention backends over the paged KV pool, one per kind of device."""
