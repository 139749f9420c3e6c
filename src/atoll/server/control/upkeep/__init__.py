"""What is done without a caller: what ended is settled, brought back, packed, forgotten or cleared away."""
