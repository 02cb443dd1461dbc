"""What runs beside the GPUs: gateway, turns, conversations, tenants, backends, command line."""
