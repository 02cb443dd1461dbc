"""The token channel: one TCP connection per (replica, owner) pair, one frame per engine step."""
