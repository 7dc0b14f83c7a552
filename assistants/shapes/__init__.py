"""Answers in the shapes that assistants speak: framefill's own JSON, Rasa NLU, and Home Assistant through Wyoming.

``own``, ``rasa`` and ``names`` need nothing beyond the runtime (``names`` needs PyYAML for a YAML file);
``models`` needs pydantic and ``home_assistant`` needs wyoming, which the extra ``serve`` installs.
"""
