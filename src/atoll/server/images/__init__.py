"""Builds templates from recipes, and knows the built ones. Implements ports.Templates."""
