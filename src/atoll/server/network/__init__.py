"""
The network of sandboxes: slots (a namespace and an interface each), the fence around them, host settings.

Implements ``ports.Slots``. What one home makes carries its id, and no home touches what is another's.
"""
