"""Idempotency keys: what a tenant's key stands for."""

from __future__ import annotations

from typing import Final

from services.conversations.scripts import Script

RESERVE: Final = Script("""
-- Say what a key stands for, unless it stands for something else than what is to be replaced.
-- KEYS 1 the key
-- ARGV 1 reservation, 2 ttl (s), 3 the reservation that it may replace (or '')
-- Replies the reservation that holds
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[3] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return ARGV[1]
""")
