"""What a process that runs turns is made of: gateways and dispatchers share it."""
