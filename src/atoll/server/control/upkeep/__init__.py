"""What is done without a caller: settled, brought back, packed, forgotten, cleared; and teams that go."""
