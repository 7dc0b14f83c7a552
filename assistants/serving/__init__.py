"""Bundles behind HTTP (FastAPI, uvicorn) and Wyoming; the extra ``serve`` installs what this needs, and torch is not among it.

``service`` parses for every protocol: it holds the bundles, batches utterances and keeps the limits. ``app`` is the HTTP
application, ``guard`` what stands before it, ``wyoming`` the Wyoming server, ``server`` runs both.
"""
