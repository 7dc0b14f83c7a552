"""The commands of ``framefill``, a module each: ``add_arguments(parser)`` and ``run(options)``.

Modules import what a command computes with inside of functions, for ``framefill --help`` should not wait for torch.
"""
