"""How a connection comes to be open, without I/O: addresses, targets, HTTP heads, the handshake.

This package knows no frames; ``core`` knows nothing but frames.
"""
