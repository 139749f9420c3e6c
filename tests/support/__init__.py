"""What several test folders share. Not a place for tests."""
