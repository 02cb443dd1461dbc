"""The HTTP side: schemas, routes, server-sent events, errors, keys."""
