"""What people run. ``scripts.cli`` is the installed command; the other scripts call the same functions."""
