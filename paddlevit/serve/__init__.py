"""An export as an HTTP server: `python -m paddlevit.serve FOLDER`.

The libraries of the extra `serve` are imported by `app`, `gate`, `metrics`, `reading` and `service` only.
"""
