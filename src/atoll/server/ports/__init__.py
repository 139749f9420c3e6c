"""What control needs of the world: Protocols whose docstrings are the contract."""
