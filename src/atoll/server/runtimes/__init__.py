"""Isolation technologies; each folder implements ports.Runtime and knows no other."""
