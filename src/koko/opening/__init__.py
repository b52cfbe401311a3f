"""How a connection comes to be open, without I/O: addresses, targets, HTTP heads, the handshake.

Nothing in here knows a frame; ``core`` knows nothing else.
"""
