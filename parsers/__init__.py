"""The parsers as plain modules and their decoding. ``import parsers`` loads no torch; submodules do as they need."""
